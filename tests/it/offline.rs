//! What tills did while they were cut off: each redemption stands in the ledger or among the conflicts, once, whatever
//! was sent how often and wherever it broke off. And what a day of a store comes to.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row;
use tessera::{
    chain::key::Role,
    clock::{Clock, Zone},
    id::Day,
};

use crate::{
    races::assert_clean,
    support::{
        Pair, Server, TestApp, TestDb, scaled,
        server::{Client, Keys, Response, fresh_number, make_key, make_store, settings},
    },
};

const UPLOAD: &str = "/v1/pos/offline-redemptions";

/// Noon of today at the chain, so that hours to both sides are of this day.
fn noon() -> DateTime<Utc> {
    let today = Zone::DEFAULT.day_of(Clock::system().now());
    Zone::DEFAULT.start_of(today) + TimeDelta::hours(12)
}

fn day_of(at: DateTime<Utc>) -> Day {
    Zone::DEFAULT.day_of(at)
}

/// A redemption of 80.00 at an instant, on its day.
fn item(sequence: usize, code: &str, at: DateTime<Utc>) -> Value {
    json!({"business_date": day_of(at), "sequence": sequence, "redeemed_at": at, "code": code, "amount": 8000,
        "order_ref": format!("order-{sequence}")})
}

fn with(mut item: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        item[name] = value.clone();
    }
    item
}

async fn upload(api: &Client, register: &str, items: &[Value]) -> Response {
    let body = json!({"store_id": "S0001", "register": register, "items": items});
    api.post(UPLOAD, &api.keys.pos, body).await
}

/// The reason of each conflict, "" of what was accepted.
fn reasons(answer: &Response) -> Vec<&str> {
    let items = answer.json["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| match item["outcome"].as_str().unwrap() {
            "accepted" => "",
            _ => item["reason"].as_str().unwrap(),
        })
        .collect()
}

async fn post(api: &Client, path: &str, body: Value) -> Response {
    api.post_numbered(path, &api.keys.admin, &fresh_number(), body).await.expect(200)
}

/// Every item stands once, in the ledger or among the conflicts; numbers and sums of both.
async fn assert_once(db: &TestDb, items: usize) {
    const ALL: &str = "(select redemption_id as id, register, sequence, amount, order_ref, code_id::text as code
        from redemption where occurred_at is not null union all
        select conflict_id, register, sequence, amount, order_ref, coalesce(code_id::text, code)
        from redemption_conflict) as x";
    assert_eq!(db.count(&format!("select count(*) from {ALL}")).await, items as i64);
    assert_eq!(db.count(&format!("select count(distinct id) from {ALL}")).await, items as i64);
    let distinct = format!("select count(distinct (register, sequence, amount, order_ref, code)) from {ALL}");
    assert_eq!(db.count(&distinct).await, items as i64);
}

async fn at_noon() -> TestApp {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    TestApp::on(&db, keys, settings(), Clock::fixed(noon())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_salted_stream_each_lands_with_its_reason_and_sent_again_nothing_happens() {
    let app = TestApp::spawn().await;
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

/// The sums of a day in plain SQL: of a kind of rows, by register.
async fn sums(db: &TestDb, day: Day, condition: &str) -> HashMap<Option<String>, [i64; 3]> {
    let sql = format!(
        "select register, count(*), sum(amount)::bigint, coalesce(sum(discount), 0)::bigint from {condition} \
         and store_no = (select store_no from store where store_id = 'S0001') group by register"
    );
    let sql = sql.replace("DAY", &day.number().to_string());
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut db.sql().await).await.unwrap();
    rows.iter().map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3)])).collect()
}

/// The totals equal what the rows of ledger and conflicts add up to.
async fn assert_reconciled(api: &Client, db: &TestDb, day: Day) -> Value {
    let path = format!("/v1/pos/totals?store=S0001&business_date={day}&by_rule=true");
    let totals = api.get(&path, &api.keys.ops).await.expect(200).json;
    let of = |sum: &Value| ["count", "amount", "discount"].map(|name| sum[name].as_i64().unwrap());
    let (mut net, mut registers) = (0, HashSet::new());
    let ledger = "redemption where redemption_id >> 41 = DAY and";
    for (name, conditions) in [
        ("redemptions", format!("{ledger} kind = 1")),
        ("offline", format!("{ledger} kind = 1 and occurred_at is not null")),
        ("reversals_whole", format!("{ledger} kind = 2 and reversed_whole")),
        ("reversals_partial", format!("{ledger} kind = 2 and not reversed_whole")),
        ("conflicts", "redemption_conflict where conflict_id >> 41 = DAY".to_owned()),
    ] {
        let expected = sums(db, day, &conditions).await;
        let at = |one: &Value| of(if name == "conflicts" { &one["conflicts"] } else { &one["ledger"][name] });
        let mut all = [0; 3];
        for register in totals["registers"].as_array().unwrap() {
            let key = register["register"].as_str().map(str::to_owned);
            let sum = at(register);
            assert_eq!(sum, expected.get(&key).copied().unwrap_or_default(), "{name} of {key:?}");
            all = [all[0] + sum[0], all[1] + sum[1], all[2] + sum[2]];
            registers.insert(key);
        }
        assert!(expected.keys().all(|register| registers.contains(register)), "{name}: a register is missing");
        assert_eq!(at(&totals), all, "{name} in all");
        match name {
            "redemptions" => net += all[2],
            "reversals_whole" | "reversals_partial" => net -= all[2],
            _ => {}
        }
        if name != "conflicts" {
            let by_rule = totals["rules"].as_array().unwrap().iter().map(|rule| of(&rule["ledger"][name]));
            let by_rule = by_rule.fold([0; 3], |sum, one| [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]);
            assert_eq!(by_rule, all, "{name} by rule");
        }
    }
    assert_eq!(totals["ledger"]["net_discount"].as_i64(), Some(net));
    totals
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_of_a_random_day_are_the_sums_of_the_ledger_and_late_uploads_change_their_own_day() {
    let seed: u64 = std::env::var("TESSERA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    eprintln!("TESSERA_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let (today, yesterday) = (day_of(now), day_of(now).plus(-1));
    make_store(&mut db.sql().await, "S0002").await;
    app.clock.set_offset_ms(-86_400_000);
    let percent = json!({"type": "percent_off", "basis_points": 1234});
    let rules =
        [api.rule(json!({"uses": 3})).await, api.rule(json!({"uses": 3, "discount": percent, "threshold": 0})).await];
    let mut codes = Vec::new();
    for rule in &rules {
        codes.extend(api.issue(rule, json!({"count": 40})).await);
    }
    app.clock.set_offset_ms(0);
    let mut used: Vec<(String, String, i64)> = Vec::new();
    for sequence in 0..scaled(150, 2000) {
        let (store, register) =
            if rng.random_bool(0.2) { ("S0002", "1") } else { ("S0001", ["1", "2", "3", ""][rng.random_range(0..4)]) };
        let mut till =
            json!({"store_id": store, "business_date": if rng.random_bool(0.2) { yesterday } else { today }});
        if !register.is_empty() {
            till["register"] = json!(register);
            till["sequence"] = json!(sequence);
        }
        let (path, body) = if used.is_empty() || rng.random_bool(0.6) {
            let code = &codes[rng.random_range(0..codes.len())];
            let amount = rng.random_range(5000..99_999);
            let sale = json!({"order_ref": format!("o{sequence}"), "amount": amount});
            (format!("/v1/coupons/{code}/redeem"), with(till, sale))
        } else {
            let (code, redemption, amount) = &used[rng.random_range(0..used.len())];
            let part = json!({"redemption_id": redemption, "amount": rng.random_range(1..*amount)});
            let undo = if rng.random_bool(0.5) { json!({"redemption_id": redemption}) } else { part };
            (format!("/v1/coupons/{code}/reverse"), with(till, undo))
        };
        let answer = api.post_numbered(&path, &api.keys.admin, &fresh_number(), body.clone()).await;
        if answer.status == 200 && path.ends_with("redeem") {
            let id = answer.json["redemption_id"].as_str().unwrap().to_owned();
            used.push((answer.json["code"].as_str().unwrap().to_owned(), id, body["amount"].as_i64().unwrap()));
        } else if answer.status != 200 {
            assert!([409, 422].contains(&answer.status.as_u16()), "{}", answer.text);
        }
    }
    for kind in ["kind = 1", "kind = 2 and reversed_whole", "kind = 2 and not reversed_whole"] {
        assert!(db.count(&format!("select count(*) from redemption where {kind}")).await > 5, "{kind}: a poor day");
    }
    let before = [assert_reconciled(api, db, yesterday).await, assert_reconciled(api, db, today).await];
    // What was done yesterday and comes now is yesterday's.
    let fresh = api.issue(&rules[0], json!({"count": 3})).await;
    let late: Vec<Value> = codes
        .iter()
        .chain(&fresh)
        .enumerate()
        .map(|(n, code)| item(5000 + n, code, now - TimeDelta::days(1) + TimeDelta::minutes(n as i64)))
        .collect();
    let sent = upload(api, "2", &late).await.expect(200);
    let (accepted, conflicts) = (&sent.json["accepted"], &sent.json["conflicts"]);
    assert!(accepted.as_i64() > Some(5) && conflicts.as_i64() >= Some(3), "{accepted} {conflicts}");
    let after = assert_reconciled(api, db, yesterday).await;
    assert_eq!(&after["ledger"]["offline"]["count"], accepted);
    assert_eq!(&after["conflicts"]["count"], conflicts);
    assert_ne!(after, before[0]);
    assert_eq!(assert_reconciled(api, db, today).await, before[1], "today's is untouched");
    // A till asks for its own store's, of today if it does not say.
    let own = api.get("/v1/pos/totals", &api.keys.pos).await.expect(200).json;
    assert_eq!((&own["ledger"], &own["rules"]), (&before[1]["ledger"], &Value::Null));
    let foreign = api.get("/v1/pos/totals?store=S0002", &api.keys.pos).await.expect(403);
    assert_eq!(foreign.code(), "store_forbidden");
    assert_clean(db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_sent_by_16_at_once_over_two_processes_happens_once() {
    for batch_max in ["64", "1"] {
        let pair = Pair::spawn(&[("TESSERA_WRITE_BATCH_MAX", batch_max)]).await;
        let api = &pair.a.client;
        let rule = api.rule(json!({"uses": 2, "budget": 40_000})).await;
        let codes = api.issue(&rule, json!({"count": 30})).await;
        let now = Clock::system().now();
        // Each coupon three times, and numbers with two contents.
        let mut items: Vec<Value> = (0..90).map(|n| item(n, &codes[n % 30], now)).collect();
        items.extend((0..5).map(|n| with(item(n, &codes[n], now), json!({"amount": 9000}))));
        let answers = join_all((0..16).map(|worker| {
            let (client, items) = (pair.clients()[worker % 2], &items);
            async move { upload(client, "1", items).await.expect(200) }
        }))
        .await;
        for answer in &answers {
            assert_eq!(answer.json["items"], answers[0].json["items"]);
        }
        let told = reasons(&answers[0]);
        assert_eq!(told.iter().filter(|reason| reason.is_empty()).count(), 40, "{told:?}");
        assert!(told[90..].iter().all(|reason| *reason == "request_number_reused"), "{told:?}");
        let new: i64 = answers.iter().map(|answer| 95 - answer.json["repeated"].as_i64().unwrap()).sum();
        assert_eq!(new, 95, "each was decided once");
        assert_once(&pair.db, 95).await;
        assert_eq!(pair.db.count("select spent from coupon_stock where store_no = 0 and period = 0").await, 40_000);
        assert_clean(&pair.db).await;
    }
}

/// Uses of coupons are exact, and told by the ledger.
async fn assert_uses(db: &TestDb, most: i64) {
    let twisted = "select count(*) from coupon c where c.uses <> (select count(*) from redemption r
        where r.code_id = c.code_id and r.kind = 1 and not r.reversed_whole)";
    assert_eq!(db.count(twisted).await, 0);
    assert!(db.count("select max(uses)::bigint from coupon").await <= most);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_against_tills_online_spend_each_use_once() {
    const UPLOADS: usize = 8;
    for batch_max in ["64", "1"] {
        let pair = Pair::spawn(&[("TESSERA_WRITE_BATCH_MAX", batch_max)]).await;
        let api = &pair.a.client;
        let rule = api.rule(json!({"uses": 3})).await;
        let codes = api.issue(&rule, json!({"count": 40})).await;
        let now = Clock::system().now();
        let online = AtomicUsize::new(0);
        let uploads = join_all((0..UPLOADS).map(|worker| {
            let (client, codes) = (pair.clients()[worker % 2], &codes);
            async move {
                let mut rng = StdRng::seed_from_u64(worker as u64);
                let items: Vec<Value> =
                    (0..30).map(|n| item(n, &codes[rng.random_range(0..codes.len())], now)).collect();
                upload(client, &format!("up{worker}"), &items).await.expect(200)
            }
        }));
        let tills = join_all((0..8).map(|worker| {
            let (client, codes, online) = (pair.clients()[worker % 2], &codes, &online);
            async move {
                for n in 0..20 {
                    let answer = client.redeem(&codes[(worker * 7 + n * 3) % codes.len()]).await;
                    match answer.status.as_u16() {
                        200 => drop(online.fetch_add(1, Ordering::Relaxed)),
                        status => assert_eq!((status, answer.code()), (409, "coupon_already_redeemed")),
                    }
                }
            }
        }));
        let (answers, _) = tokio::join!(uploads, tills);
        let told: Vec<&str> = answers.iter().flat_map(reasons).collect();
        assert!(told.iter().all(|reason| ["", "coupon_already_redeemed"].contains(reason)), "{told:?}");
        let accepted = told.iter().filter(|reason| reason.is_empty()).count();
        let db = &pair.db;
        assert_once(db, UPLOADS * 30).await;
        let used = db.count("select sum(uses)::bigint from coupon").await;
        assert_eq!(used as usize, accepted + online.into_inner());
        assert_uses(db, 3).await;
        assert_clean(db).await;
    }
}

/// A till that sends its day in parts, each until it is answered.
async fn send_all(
    clients: &tokio::sync::watch::Receiver<Client>,
    register: &str,
    items: &[Value],
    sent: &AtomicUsize,
) -> Vec<Value> {
    let mut answers = Vec::new();
    for part in items.chunks(15) {
        let body = json!({"store_id": "S0001", "register": register, "items": part});
        let answer = loop {
            let client = clients.borrow().clone();
            let request = client.raw(Method::POST, UPLOAD).bearer_auth(&client.keys.pos).json(&body);
            match client.try_send(request).await {
                Ok(answer) if answer.status == 200 => break answer,
                Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
                // It is being killed: there will be another.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        sent.fetch_add(1, Ordering::SeqCst);
        answers.extend(answer.json["items"].as_array().unwrap().iter().cloned());
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_whose_server_is_killed_are_sent_again_with_nothing_twice_and_nothing_lost() {
    const TILLS: usize = 4;
    let (kills, each) = (scaled(3, 20), scaled(300, 2000));
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let more = [("TESSERA_WRITE_BATCH_MAX", "7")];
    let mut server = Server::spawn(&db, &keys, &more).await;
    let rule = server.client.rule(json!({"uses": 2})).await;
    let codes = server.client.issue(&rule, json!({"count": 500})).await;
    let (switch, clients) = tokio::sync::watch::channel(server.client.clone());
    let now = Clock::system().now();
    let items = |till: usize| -> Vec<Value> {
        (0..each)
            .map(|n| item(n, if n % 10 == 9 { "no code" } else { &codes[(n * (till + 1)) % codes.len()] }, now))
            .collect()
    };
    let sent = AtomicUsize::new(0);
    let parts = TILLS * each.div_ceil(15);
    let tills = join_all((0..TILLS).map(|till| {
        let (clients, sent, items) = (&clients, &sent, items(till));
        async move { send_all(clients, &till.to_string(), &items, sent).await }
    }));
    let killer = async {
        for kill in 0..kills {
            // When a good part more has been answered, in the middle of the next.
            while sent.load(Ordering::SeqCst) < (kill + 1) * parts / (kills + 2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            server.child.kill().await.unwrap();
            server = Server::spawn(&db, &keys, &more).await;
            switch.send_replace(server.client.clone());
        }
    };
    let (first, ()) = tokio::join!(tills, killer);
    assert_once(&db, TILLS * each).await;
    // All again: what was heard is what stands.
    for (till, first) in first.iter().enumerate() {
        let again = send_all(&clients, &till.to_string(), &items(till), &sent).await;
        assert_eq!(&again, first);
    }
    assert_once(&db, TILLS * each).await;
    assert_uses(&db, 2).await;
    assert_clean(&db).await;
}
