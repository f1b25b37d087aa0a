//! Lists of coupons: pages that hold still while coupons change, filters that say what SQL says, cursors that are what they
//! are, and pages that look at so many rows and no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tessera::{
    coupon::list::EXAMINED_MAX,
    id::{CodeId, RuleId},
    partition::{plan, query},
};

use crate::support::{
    Pair, TestApp, TestDb, scaled,
    server::{Client, Response, fresh_number},
};

fn codes(page: &Response) -> Vec<String> {
    let items = page.json["items"].as_array().unwrap();
    items.iter().map(|item| item["code"].as_str().unwrap().to_owned()).collect()
}

/// All pages of a list, and how many there were.
async fn all(api: &Client, path: &str, filter: &str) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = api.get(&format!("{path}?limit=7{filter}{cursor}"), &api.keys.ops).await.expect(200);
        found.extend(codes(&page));
        pages += 1;
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (found, pages),
        }
    }
}

async fn act(api: &Client, key: &str, code: &str, what: &str, body: serde_json::Value) -> Response {
    api.post_numbered(&format!("/v1/coupons/{code}/{what}"), key, &fresh_number(), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_rule_holds_still_while_its_coupons_are_used_made_void_and_issued() {
    let pair = Pair::spawn(&[]).await;
    let [one, other] = pair.clients();
    let rule = one.rule(json!({"stock": 1_000_000})).await;
    let (used, still, void) = (
        one.issue(&rule, json!({"count": scaled(60, 600)})).await,
        one.issue(&rule, json!({"count": scaled(60, 600)})).await,
        one.issue(&rule, json!({"count": scaled(60, 600)})).await,
    );
    let there: BTreeSet<String> = [&used, &still, &void].into_iter().flatten().cloned().collect();
    let stop = Arc::new(AtomicBool::new(false));
    let mut work = Vec::new();
    for (api, mine, voids) in [(one, used, false), (other, void, true)] {
        let (api, stop, rule) = (api.clone(), Arc::clone(&stop), rule.clone());
        work.push(tokio::spawn(async move {
            for code in mine {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match voids {
                    true => drop(act(&api, &api.keys.ops, &code, "void", json!({"reason": "test"})).await.expect(200)),
                    false => drop(api.redeem(&code).await.expect(200)),
                }
                api.issue(&rule, json!({})).await;
            }
        }));
    }
    let path = format!("/v1/coupon-rules/{rule}/coupons");
    let rounds = scaled(3, 10);
    for round in 0..rounds {
        let api = if round % 2 == 0 { one } else { other };
        let (listed, _) = all(api, &path, "").await;
        let unique: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(unique.len(), listed.len(), "a coupon came twice");
        assert!(there.is_subset(&unique), "a coupon was lost");
        // What no one touches is on every page of its state, however the others move.
        let (issued, _) = all(api, &path, "&state=issued").await;
        let unique: BTreeSet<&String> = issued.iter().collect();
        assert_eq!(unique.len(), issued.len(), "a coupon came twice");
        assert!(still.iter().all(|code| unique.contains(code)), "a coupon that stayed issued was lost");
    }
    stop.store(true, Ordering::Relaxed);
    for task in work {
        task.await.unwrap();
    }
    for (state, number) in [("redeemed", 2), ("void", 3)] {
        let (listed, _) = all(one, &path, &format!("&state={state}")).await;
        let counted =
            pair.db.count(&format!("select count(*) from coupon where rule_id = {rule} and state = {number}")).await;
        assert_eq!(listed.len() as i64, counted, "{state}");
    }
}

/// Coupons of one rule in every state, of three days, with and without holder and referrer.
async fn many_sorts(app: &TestApp, rule: &str) -> String {
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let today = tessera::clock::Zone::DEFAULT.day_of(app.clock.now());
    for days in [0, 2, 9] {
        for referrer in [None, Some("E1001"), Some("E1002")] {
            let mut body = json!({"count": 4, "issued_on": today.plus(-days)});
            if let Some(referrer) = referrer {
                body["referrer"] = json!(referrer);
            }
            if referrer != Some("E1002") {
                body["member_id"] = json!(member);
            }
            let path = format!("/v1/coupon-rules/{rule}/coupons");
            let issued = api.post_numbered(&path, &keys.admin, &fresh_number(), body).await.expect(201);
            let code = |n: usize| issued.json["coupons"][n]["code"].as_str().unwrap().to_owned();
            act(api, &keys.ops, &code(1), "void", json!({"reason": "test"})).await.expect(200);
            if days < 7 {
                api.redeem(&code(2)).await.expect(200);
            }
        }
    }
    member
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_of_a_list_says_what_sql_says() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({"validity": {"days_after_issue": 7}})).await;
    let stranger = api.rule(json!({})).await;
    let member = many_sorts(&app, &rule).await;
    api.issue(&stranger, json!({"member_id": member, "count": 3})).await;
    let today = tessera::clock::Zone::DEFAULT.day_of(app.clock.now());
    let (two, nine) = (today.plus(-2), today.plus(-9));
    let edge: DateTime<Utc> = tessera::clock::Zone::DEFAULT.start_of(today.plus(6));
    let text = edge.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let states = [
        ("", "true"),
        ("&state=issued", "i.state = 1 and i.valid_until > now()"),
        ("&state=expired", "i.state = 1 and i.valid_until <= now()"),
        ("&state=redeemed", "i.state = 2"),
        ("&state=void", "i.state = 3"),
    ];
    let mut others = vec![
        (String::new(), "true".to_owned()),
        (format!("&valid_until_before={text}"), format!("i.valid_until < '{text}'")),
        (format!("&valid_until_from={text}"), format!("i.valid_until >= '{text}'")),
        (format!("&valid_until_from={text}&valid_until_before={text}"), "false".to_owned()),
    ];
    let deadlines = others.clone();
    others.extend([
        ("&referrer=E1001".to_owned(), "i.referrer = 'E1001'".to_owned()),
        ("&referrer=nobody".to_owned(), "false".to_owned()),
        (format!("&issued_from={two}"), format!("i.code_id >= {}", two.first_id())),
        (format!("&issued_until={two}"), format!("i.code_id < {}", two.plus(1).first_id())),
        (
            format!("&issued_from={nine}&issued_until={nine}&referrer=E1002"),
            format!("i.code_id < {} and i.referrer = 'E1002'", nine.plus(1).first_id()),
        ),
        (format!("&issued_from={today}&issued_until={nine}"), "false".to_owned()),
    ]);
    let codes = app.db.secrets().codes();
    let mut sql = app.db.sql().await;
    let mut expected = async |text: String| -> Vec<String> {
        let ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(text)).fetch_all(&mut sql).await.unwrap();
        ids.into_iter().map(|id| codes.format(CodeId::new(id).unwrap())).collect()
    };
    let mut met = 0;
    for (asked, holds) in &others {
        for (state, holds_too) in states {
            let filter = format!("{asked}{state}");
            let text = format!(
                "select i.code_id from coupon_index i where i.rule_id = {rule} and {holds} and {holds_too} order by 1"
            );
            let (listed, _) = all(api, &format!("/v1/coupon-rules/{rule}/coupons"), &filter).await;
            assert_eq!(listed, expected(text).await, "{filter}");
            met += listed.len();
        }
    }
    assert!(met > 200, "{met}: the filters leave nothing to compare");
    // A member's list, the newest first.
    let of_rule = (format!("&rule_id={rule}"), format!("i.rule_id = {rule}"));
    for (asked, holds) in deadlines.iter().chain([&of_rule]) {
        for (state, holds_too) in states {
            let filter = format!("{asked}{state}");
            let text = format!(
                "select i.code_id from coupon_receive i where i.member_id = {member} and {holds} and {holds_too}
                 order by 1 desc"
            );
            let (listed, _) = all(api, &format!("/v1/members/{member}/coupons"), &filter).await;
            assert_eq!(listed, expected(text).await, "{filter}");
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_good_for_its_own_list_and_a_list_for_its_roles() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let (rule, other) = (api.rule(json!({})).await, api.rule(json!({})).await);
    let member = api.member("+8613800000001").await;
    for rule in [&rule, &other] {
        api.issue(rule, json!({"member_id": member, "count": 3})).await;
    }
    let path = format!("/v1/coupon-rules/{rule}/coupons");
    let first = api.get(&format!("{path}?limit=2&state=issued"), &keys.ops).await.expect(200);
    let cursor = first.json["next_cursor"].as_str().unwrap();
    let rest = api.get(&format!("{path}?limit=200&state=issued&cursor={cursor}"), &keys.marketing).await.expect(200);
    assert_eq!(codes(&rest).len(), 1, "another limit is no other list");
    let members = format!("/v1/members/{member}/coupons");
    // The digest of this list, and a key that is none.
    let forged =
        |key: &str| format!("{}{}", &cursor[..16], key.bytes().map(|b| format!("{b:02x}")).collect::<String>());
    for wrong in [
        format!("{path}?cursor={cursor}"),
        format!("{path}?state=void&cursor={cursor}"),
        format!("{path}?state=issued&referrer=E1&cursor={cursor}"),
        format!("/v1/coupon-rules/{other}/coupons?state=issued&cursor={cursor}"),
        format!("{members}?state=issued&cursor={cursor}"),
        format!("{path}?state=issued&cursor={}", forged("-1")),
        format!("{path}?state=issued&cursor={}", forged("9223372036854775807")),
        format!("{path}?state=issued&cursor={}", forged("1 or 1=1")),
        format!("{path}?state=issued&cursor=zz"),
        format!("{path}?state=locked"),
        format!("{path}?limit=0"),
        format!("{path}?limit=201"),
        format!("{path}?valid_until_before=tomorrow"),
        format!("{path}?issued_from=2026-02-30"),
        format!("{path}?referrer="),
        format!("{path}?colour=red"),
    ] {
        let refused = api.get(&wrong, &keys.ops).await.expect(400);
        assert_eq!(refused.code(), "malformed_query", "{wrong}");
    }
    // A forged place within the list is a place, and nothing else.
    let beyond = format!("{path}?state=issued&cursor={}", forged(&CodeId::MAX.to_string()));
    assert_eq!(codes(&api.get(&beyond, &keys.ops).await.expect(200)), Vec::<String>::new());
    assert_eq!(api.get(&path, &keys.pos).await.expect(403).code(), "role_forbidden");
    assert_eq!(api.get("/v1/coupon-rules/1/coupons", &keys.ops).await.expect(404).code(), "rule_not_found");
    // Only an admin says on which day coupons were issued, and not on one to come.
    let issue =
        async |key: &str, day: &str| api.post_numbered(&path, key, &fresh_number(), json!({"issued_on": day})).await;
    let today = tessera::clock::Zone::DEFAULT.day_of(app.clock.now());
    assert_eq!(issue(&keys.marketing, &today.to_string()).await.expect(403).code(), "role_forbidden");
    for day in [today.plus(1).to_string(), "1999-12-31".to_owned()] {
        assert_eq!(issue(&keys.admin, &day).await.expect(422).code(), "invalid_field", "{day}");
    }
    app.stop().await;
}

/// A rule with so many coupons, of which the last is void. Only the index rows: nothing else is asked for.
async fn large_rule(db: &TestDb, rule: &str, coupons: i64) {
    let mut sql = db.sql().await;
    let today = tessera::clock::Zone::DEFAULT.day_of(tessera::clock::Clock::system().now());
    let rows = format!(
        "insert into coupon_index (rule_id, code_id, valid_until, state, referrer)
         select {rule}, {} + n, now() + interval '1 day', case when n = {coupons} then 3 else 1 end,
             case when n % 10000 = 1 then 'E1' end
         from generate_series(1::bigint, {coupons}) n",
        today.first_id()
    );
    sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut sql).await.unwrap();
    sqlx::raw_sql("analyze coupon_index").execute(&mut sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_looks_at_so_many_coupons_and_goes_on_however_few_fit() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let coupons = scaled(30_000, 1_000_000) as i64;
    large_rule(&app.db, &rule, coupons).await;
    let path = format!("/v1/coupon-rules/{rule}/coupons");
    let (found, pages) = all(api, &path, "&state=void").await;
    // Where the look ends with the rule, the last page may be empty.
    let looks = (coupons + EXAMINED_MAX - 1) / EXAMINED_MAX;
    assert!(found.len() == 1 && (looks..=looks + 1).contains(&(pages as i64)), "{} on {pages} pages", found.len());
    let (referred, pages) = all(api, &path, "&referrer=E1").await;
    assert_eq!((referred.len() as i64, pages as i64), ((coupons + 9_999) / 10_000, (coupons / 10_000 / 7) + 1));

    // By index, in order, and no further than it says, with the planner's own choice.
    let mut conn = PgConnection::connect_with(&app.db.service()).await.unwrap();
    let rule_id: RuleId = rule.parse().unwrap();
    let leaf = plan("coupon_index").leaf_i64(rule_id.get());
    for (name, state, looked_at) in [
        ("coupon_index/list", Some(3_i16), EXAMINED_MAX),
        ("coupon_index/list", None, 51),
        ("coupon_index/list_referred", None, 51),
    ] {
        let text = format!("explain (analyze, timing off, summary off) {}", query(name).on(&[leaf]));
        let mut explain = sqlx::query_scalar(AssertSqlSafe(text))
            .bind(rule_id)
            .bind(0_i64)
            .bind(i64::MAX)
            .bind(state)
            .bind(None::<DateTime<Utc>>)
            .bind(None::<DateTime<Utc>>)
            .bind(EXAMINED_MAX)
            .bind(51_i64);
        if name.ends_with("referred") {
            explain = explain.bind("E1");
        }
        let lines: Vec<String> = explain.fetch_all(&mut conn).await.unwrap();
        let plan = lines.join("\n");
        assert!(!plan.contains("Seq Scan") && !plan.contains("Sort"), "{plan}");
        let rows: BTreeMap<&str, i64> = lines
            .iter()
            .filter_map(|line| {
                let (_, actual) = line.split_once("(actual rows=")?;
                Some((line.trim(), actual.split(' ').next()?.parse().ok()?))
            })
            .collect();
        // One more is read, to know that the window ends.
        assert!(rows.values().all(|rows| *rows <= looked_at + 1), "{plan}");
    }
    app.stop().await;
}
