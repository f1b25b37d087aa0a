//! What tills did while they were cut off: each redemption stands in the ledger or among the conflicts, once, whatever
//! was sent how often.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use tessera::{chain::key::Role, clock::Clock};

use crate::{
    races::assert_clean,
    support::{
        TestApp, TestDb,
        offline::{UPLOAD, assert_once, at_noon, day_of, item, noon, post, reasons, upload, with},
        server::{Keys, make_key, make_store, settings},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_salted_stream_each_lands_with_its_reason_and_sent_again_nothing_happens() {
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, app.clock.now());
    make_store(&mut db.sql().await, "S0002").await;
    let (member, other, frozen) =
        (api.member("+8613800000001").await, api.member("+8613800000002").await, api.member("+8613800000003").await);
    let ago = |minutes: i64| now - TimeDelta::minutes(minutes);
    // Yesterday, coupons that end an hour ago.
    app.clock.set_offset_ms(-86_400_000);
    let ends = api.rule(json!({"uses": 2, "validity": {"until": ago(60)}})).await;
    let ended = api.issue(&ends, json!({"count": 2})).await;
    let plain = api.rule(json!({"uses": 2})).await;
    let codes = api.issue(&plain, json!({"count": 6})).await;
    let held = api.issue(&plain, json!({"member_id": member})).await.remove(0);
    let of_frozen = api.issue(&plain, json!({"member_id": frozen})).await.remove(0);
    let elsewhere = api.rule(json!({"stores": {"in": ["S0002"]}})).await;
    let elsewhere = api.issue(&elsewhere, json!({})).await.remove(0);
    let poor = api.rule(json!({"budget": 1500})).await;
    let poor = api.issue(&poor, json!({"count": 2})).await;
    let paused = api.rule(json!({"uses": 2})).await;
    let stopped = api.issue(&paused, json!({})).await.remove(0);
    app.clock.set_offset_ms(-30 * 60_000);
    let pause = format!("/v1/coupon-rules/{paused}/pause");
    api.send(api.raw(Method::POST, &pause).bearer_auth(&api.keys.ops)).await.expect(200);
    app.clock.set_offset_ms(0);
    let patch = api.raw(Method::PATCH, &format!("/v1/members/{frozen}")).bearer_auth(&api.keys.ops);
    api.send(patch.header("if-match", "*").json(&json!({"state": "frozen"}))).await.expect(200);
    post(api, &format!("/v1/coupons/{}/void", codes[1]), json!({"reason": "printed twice"})).await;
    let lock = json!({"store_id": "S0001", "order_ref": "other"});
    post(api, &format!("/v1/coupons/{}/lock", codes[2]), lock).await;
    let stranger = db.secrets().codes().mint(day_of(now), 1_000_000_007).unwrap().to_string();
    let of_2017 = db.secrets().codes().mint("2017-03-03".parse().unwrap(), 1_000_000_007).unwrap().to_string();

    let stream = [
        (item(1, &ended[0], now - TimeDelta::days(1) - TimeDelta::hours(1)), "coupon_not_yet_valid"),
        (item(2, &codes[0], now - TimeDelta::days(4)), "coupon_not_yet_valid"),
        // Expired by now, and not when it was.
        (item(3, &ended[0], ago(120)), ""),
        (item(4, &ended[0].to_lowercase(), ago(90)), ""),
        (item(5, &ended[0], ago(80)), "coupon_already_redeemed"),
        (item(6, &ended[1], ago(59)), "coupon_expired"),
        (with(item(7, &held, ago(9)), json!({"member_id": other})), "coupon_holder_mismatch"),
        (with(item(8, &held, ago(8)), json!({"member_id": member, "currency": "CNY"})), ""),
        (item(9, &elsewhere, ago(8)), "coupon_not_for_store"),
        (item(10, &stranger, ago(8)), "coupon_not_found"),
        (item(11, &of_2017, ago(8)), "coupon_not_found"),
        (item(12, "7K3M-0000-0000-000U", ago(8)), "coupon_code_invalid"),
        (item(13, &format!("\u{0}\n{}", "x".repeat(300)), ago(8)), "coupon_code_invalid"),
        (item(14, "", ago(8)), "coupon_code_invalid"),
        (item(15, &codes[1], ago(8)), "coupon_void"),
        (item(16, &codes[2], ago(8)), "coupon_locked"),
        (with(item(17, &codes[2], ago(8)), json!({"order_ref": "other"})), ""),
        (with(item(18, &codes[3], ago(8)), json!({"currency": "USD"})), "coupon_currency_mismatch"),
        (with(item(19, &codes[3], ago(8)), json!({"amount": 4999})), "coupon_below_threshold"),
        (item(20, &poor[0], ago(8)), ""),
        (with(item(21, &poor[1], ago(8)), json!({"discount": 900})), "budget_exhausted"),
        (item(22, &stopped, ago(31)), ""),
        (item(23, &stopped, ago(29)), "rule_not_active"),
        (item(24, &of_frozen, ago(8)), "member_frozen"),
        // Other content under a number that is taken: of this stream, and by one that did not fit.
        (with(item(3, &ended[0], ago(120)), json!({"amount": 9000})), "request_number_reused"),
        (item(12, &codes[4], ago(8)), "request_number_reused"),
        // The same once more, in the same upload.
        (item(3, &ended[0], ago(120)), ""),
        (item(25, &codes[4], now - TimeDelta::days(60)), "request_number_expired"),
        (with(item(26, &codes[4], now), json!({"business_date": "2190-01-01"})), "request_number_expired"),
        (with(item(27, &codes[4], now), json!({"business_date": day_of(ago(3000))})), "redeemed_at_implausible"),
        (item(28, &codes[4], now + TimeDelta::minutes(6)), "redeemed_at_implausible"),
        (item(29, &codes[4], now + TimeDelta::minutes(4)), ""),
    ];
    let (items, expected): (Vec<Value>, Vec<&str>) = stream.into_iter().unzip();
    let first = upload(api, "9", &items).await.expect(200);
    let told: BTreeMap<_, _> = reasons(&first)
        .into_iter()
        .zip(&items)
        .zip(&expected)
        .map(|((a, b), c)| (b["sequence"].to_string(), (a, *c)))
        .collect();
    assert_eq!(reasons(&first), expected, "{told:?}");
    assert_eq!(first.json["repeated"], json!(1));
    let accepted = expected.iter().filter(|reason| reason.is_empty()).count();
    assert_eq!((&first.json["accepted"], &first.json["conflicts"]), (&json!(accepted), &json!(32 - accepted)));
    assert_once(db, 31).await;
    // What a use says of itself, and what the ledger does.
    assert_eq!((&first.json["items"][2]["discount"], &first.json["items"][2]["payable"]), (&json!(1000), &json!(7000)));
    let of_ledger = "select count(*) from redemption r join coupon c using (code_id)
        where r.occurred_at is not null and r.recorded_at >= r.occurred_at - interval '5 minutes' and register = '9'
        and (c.redemption_id is distinct from r.redemption_id or c.redeemed_at = r.occurred_at)";
    assert_eq!(db.count(of_ledger).await, accepted as i64 - 1);
    let kept = "select count(*) from redemption_conflict where length(code) <= 64 and code_id is null";
    assert_eq!(db.count(kept).await, 3);
    let claimed = "select discount from redemption_conflict where sequence = ";
    assert_eq!(db.count(&format!("{claimed} 21")).await, 900, "the till says so");
    assert_eq!(db.count(&format!("{claimed} 5")).await, 1000, "the rule does");
    // Whole, in part, from the middle, by another caller: the same answers, and no second effect.
    for part in [&items[..], &items[..1], &items[12..], &items[4..9]] {
        let again = upload(api, "9", part).await.expect(200);
        let start = items.iter().position(|item| item == &part[0]).unwrap();
        let before = &first.json["items"].as_array().unwrap()[start..start + part.len()];
        assert_eq!(again.json["items"].as_array().unwrap(), before);
        assert_eq!(again.json["repeated"], json!(part.len()));
    }
    let body = json!({"store_id": "S0001", "register": "9", "items": items});
    let by_ops = api.post(UPLOAD, &api.keys.ops, body).await.expect(200);
    assert_eq!(by_ops.json["items"], first.json["items"]);
    assert_once(db, 31).await;
    let stored = "select count(*) from request where strpos(answer, '-') > 0 and answer ~ '[0-9A-Z]{4}-[0-9A-Z]{4}-'";
    assert_eq!(db.count(stored).await, 0, "no stored answer holds a code");
    assert_clean(db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_online_and_its_upload_are_one() {
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let rule = api.rule(json!({"uses": 2})).await;
    let codes = api.issue(&rule, json!({"count": 4})).await;
    app.clock.set_offset_ms(60_000);
    let at = now + TimeDelta::seconds(30);
    let online = async |sequence: usize, code: &str, more: Value| {
        let body = json!({"store_id": "S0001", "register": "1", "business_date": day_of(now), "sequence": sequence,
            "order_ref": format!("order-{sequence}"), "amount": 8000});
        api.post(&format!("/v1/coupons/{code}/redeem"), &api.keys.pos, with(body, more)).await
    };
    // Its answer was lost; so was that of one that said more than an upload does.
    let plain = online(1, &codes[0], json!({})).await.expect(200);
    let lines = online(2, &codes[1], json!({"lines": [{"line": "1", "amount": 8000}]})).await.expect(200);
    // A refusal was lost, and the goods were given out.
    online(3, &codes[0], json!({"amount": 100})).await.expect(422);
    let items = [
        item(1, &codes[0], at),
        item(2, &codes[1], at),
        with(item(3, &codes[0], at), json!({"amount": 100})),
        with(item(1, &codes[0], at), json!({"order_ref": "another"})),
        item(4, &codes[2], at),
    ];
    let sent = upload(api, "1", &items).await.expect(200);
    assert_eq!(reasons(&sent), ["", "", "coupon_below_threshold", "request_number_reused", ""]);
    for (position, online) in [(0, &plain), (1, &lines)] {
        assert_eq!(sent.json["items"][position]["redemption_id"], online.json["redemption_id"]);
    }
    assert_eq!(db.count("select count(*) from redemption").await, 3);
    // And the other way round: what the till had waiting goes out when it is back.
    let late = online(4, &codes[2], json!({})).await.expect(200);
    assert_eq!(late.header("idempotency-replayed"), Some("true"));
    assert_eq!(late.json["redemption_id"], sent.json["items"][4]["redemption_id"]);
    let path = format!("/v1/requests/redeem/till:S0001:1:{}:4", day_of(now));
    assert_eq!(api.get(&path, &api.keys.pos).await.expect(200).json["answer"], late.json);
    let path = format!("/v1/redemptions/{}", late.json["redemption_id"].as_str().unwrap());
    let shown = api.get(&path, &api.keys.pos).await;
    assert_eq!(shown.expect(200).json["occurred_at"], json!(tessera::coupon::instant(at)));
    assert_eq!(db.count("select count(*) from redemption").await, 3);
    assert_clean(db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_goes_to_the_conflicts_once_unless_it_is_known() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let now = noon();
    let node = async |days_back: u16| {
        let mut settings = settings();
        settings.chain.request_days_back = days_back;
        settings.partitions.retain = vec!["request=none".parse().unwrap()];
        TestApp::on(&db, keys.clone(), settings, Clock::fixed(now)).await
    };
    let usual = node(35).await;
    let api = &usual.client;
    usual.clock.set_offset_ms(-20 * 86_400_000);
    let rule = api.rule(json!({"uses": 5})).await;
    // As if it had been issued then: the leaves of events of that day are gone.
    usual.clock.set_offset_ms(0);
    let code = api.issue(&rule, json!({})).await.remove(0);
    let old = now - TimeDelta::days(20);
    let known = [item(1, &code, now), item(2, &code, old)];
    let first = upload(api, "1", &known).await.expect(200);
    assert_eq!(reasons(&first), ["", "coupon_not_yet_valid"]);
    // A node whose window is shorter sees the second as too late, and knows it from the conflicts of its day.
    let strict = node(5).await;
    sqlx::query("delete from request").execute(&mut db.sql().await).await.unwrap();
    let again = upload(&strict.client, "1", &known[1..]).await.expect(200);
    assert_eq!(again.json["items"][0], first.json["items"][1]);
    // What nobody knows is recorded, once, and other content under its number once more.
    let older = now - TimeDelta::days(40);
    let unknown = [item(3, &code, older), with(item(3, &code, older), json!({"amount": 1})), item(3, &code, older)];
    let late = upload(api, "1", &unknown).await.expect(200);
    assert_eq!(reasons(&late), ["request_number_expired"; 3]);
    assert_eq!(late.json["items"][0], late.json["items"][2]);
    for app in [&usual, &strict] {
        let again = upload(&app.client, "1", &unknown).await.expect(200);
        assert_eq!(again.json["items"], late.json["items"]);
    }
    // A window wider than what the partitions hold loses nothing either.
    let wide = node(3000).await;
    let ancient = [item(4, &code, now - TimeDelta::days(2000)), item(5, "?", now - TimeDelta::days(300))];
    for _ in 0..2 {
        let sent = upload(&wide.client, "1", &ancient).await.expect(200);
        assert_eq!(reasons(&sent), ["request_number_expired"; 2]);
    }
    assert_eq!(db.count("select count(*) from redemption_conflict").await, 5);
    assert_eq!(db.count("select count(*) from redemption_late where answer is not null").await, 5);
    let filed = format!("select count(*) from redemption_conflict where conflict_id >> 41 = {}", day_of(now).number());
    assert_eq!(db.count(&filed).await, 4);
    for app in [usual, strict, wide] {
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_sends_what_it_did_before_and_a_strange_register_is_a_conflict() {
    let app = at_noon().await;
    let (api, now) = (&app.client, noon());
    let rule = api.rule(json!({"uses": 5})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    app.clock.set_offset_ms(180_000);
    let patch = async |body: Value| {
        let patch = api.raw(Method::PATCH, "/v1/stores/S0001").bearer_auth(&api.keys.ops);
        api.send(patch.header("if-match", "*").json(&body)).await.expect(200);
        // Nodes may remember a store for two seconds.
        tokio::time::sleep(tessera::chain::book::STORE_TTL + Duration::from_millis(100)).await;
    };
    patch(json!({"state": "closed"})).await;
    let tomorrow = day_of(now).plus(1);
    let items = [item(1, &code, now), with(item(2, &code, now), json!({"business_date": tomorrow}))];
    assert_eq!(reasons(&upload(api, "1", &items).await.expect(200)), ["", "store_closed"]);
    patch(json!({"state": "open", "registers": "registered"})).await;
    assert_eq!(reasons(&upload(api, "1", &[item(3, &code, now)]).await.expect(200)), ["register_not_found"]);
    // A store that there is not, and another's, are the caller's mistake.
    let body = |store: &str| json!({"store_id": store, "register": "1", "items": [item(9, &code, now)]});
    assert_eq!(api.post(UPLOAD, &api.keys.pos, body("S0009")).await.expect(403).code(), "store_forbidden");
    assert_eq!(api.post(UPLOAD, &api.keys.ops, body("S0009")).await.expect(404).code(), "store_not_found");
    let none = json!({"store_id": "S0001", "register": "1", "items": []});
    assert_eq!(api.post(UPLOAD, &api.keys.pos, none).await.expect(422).code(), "invalid_field");
    let most: Vec<Value> = (100..601).map(|n| item(n, &code, now)).collect();
    assert_eq!(upload(api, "1", &most).await.expect(422).code(), "invalid_field");
    assert_once(&app.db, 3).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_listed_by_page_and_resolved_by_operators_with_an_audit() {
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let mut conn = db.sql().await;
    make_store(&mut conn, "S0002").await;
    let second = make_key(&mut conn, Role::Pos, Some("S0002"), 99).await;
    let items: Vec<Value> = (0..25).map(|n| item(n, "nothing", now)).collect();
    upload(api, "1", &items).await.expect(200);
    let body = json!({"store_id": "S0002", "register": "1", "items": items[..5]});
    api.post(UPLOAD, &second, body).await.expect(200);

    let list = async |key: &str, query: &str| {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/v1/pos/conflicts?limit=10{query}{cursor}"), key).await.expect(200).json;
            all.extend(page["items"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    };
    let own = list(&api.keys.pos, "").await;
    let ids: HashSet<&str> = own.iter().map(|one| one["conflict_id"].as_str().unwrap()).collect();
    assert_eq!((own.len(), ids.len()), (25, 25));
    assert!(own.iter().all(|one| one["store_id"] == "S0001" && one["state"] == "open" && one["code"] == "nothing"));
    assert!(
        own.is_sorted_by_key(|one| std::cmp::Reverse(one["conflict_id"].as_str().unwrap().parse::<i64>().unwrap()))
    );
    assert_eq!(list(&api.keys.ops, "").await.len(), 30);
    assert_eq!(list(&api.keys.ops, "&store=S0002").await.len(), 5);
    let yesterday = day_of(now).plus(-1);
    let of_day = format!("&from={0}&until={0}", day_of(now));
    assert_eq!(list(&api.keys.ops, &of_day).await.len(), 30);
    assert_eq!(list(&api.keys.ops, &format!("&from={yesterday}&until={yesterday}")).await.len(), 0);
    let foreign = api.get("/v1/pos/conflicts?store=S0002", &api.keys.pos).await;
    assert_eq!(foreign.expect(403).code(), "store_forbidden");

    let path = format!("/v1/pos/conflicts/{}", own[0]["conflict_id"].as_str().unwrap());
    assert_eq!(api.get(&path, &second).await.expect(404).code(), "conflict_not_found");
    let found = api.get(&path, &api.keys.pos).await.expect(200);
    assert_eq!(found.json, own[0]);
    let etag = found.header("etag").unwrap().to_owned();
    let resolve = async |seen: &str, how: &str, note: &str| {
        let request = api.raw(Method::POST, &format!("{path}/resolve")).bearer_auth(&api.keys.ops);
        api.send(request.header("if-match", seen).json(&json!({"how": how, "note": note}))).await
    };
    assert_eq!(resolve("\"v7\"", "store_bears", "x").await.expect(412).code(), "precondition_failed");
    let done = resolve(&etag, "chain_bears", "the till was cut off").await.expect(200);
    assert_eq!((&done.json["state"], &done.json["version"]), (&json!("resolved"), &json!(2)));
    assert_eq!(done.json["resolution"]["resolved_by"], json!("test-ops-2"), "{}", done.text);
    // The answer was lost; and it may be decided anew by who has seen it.
    assert_eq!(resolve(&etag, "chain_bears", "the till was cut off").await.expect(200).text, done.text);
    assert_eq!(resolve(&etag, "dismissed", "no loss").await.expect(412).code(), "precondition_failed");
    resolve("\"v2\"", "dismissed", "no loss").await.expect(200);
    assert_eq!(list(&api.keys.ops, "&state=open").await.len(), 29);
    assert_eq!(list(&api.keys.pos, "&state=resolved").await.len(), 1);
    assert_eq!(db.count("select count(*) from audit_log where what = 20").await, 2);
    assert_eq!(db.count("select count(*) from event where kind = 51").await, 2);
    assert_eq!(db.count("select count(*) from event where kind = 50").await, 30);
    app.stop().await;
}
