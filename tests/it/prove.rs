//! One question, one partition: every query proved on rows that the API wrote.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Column, Connection, Executor, PgConnection, Row, SqlSafeStr, Statement};
use tessera::partition::{Claim, Query, proof, queries};

use crate::support::{
    TestApp, TestDb,
    command::{said, tessera},
    offline::item,
    server::{Response, fresh_number},
};

/// Rows of every kind, spread over leaves, all but the legacy codes made by the API.
async fn fill(app: &TestApp) {
    let (api, keys) = (&app.client, &app.client.keys);
    let limited = api.rule(json!({"per_member": 3, "stock": 1000})).await;
    let often = api.rule(json!({"uses": 3})).await;
    for n in 0..24 {
        let body = json!({"phone": format!("+86138000010{n:02}"), "email": format!("m{n}@example.cn"),
            "username": format!("user{n}"), "external": [format!("web:1{n:02}")], "name": "Lin", "birthday": "1990-05-01"});
        let made = api.post_numbered("/v1/members", &keys.pos, &fresh_number(), body).await.expect(201);
        let member = made.json["member_id"].as_str().unwrap();
        let codes = api.issue(&limited, json!({"member_id": member, "count": 2, "referrer": "E1001"})).await;
        let used = api.redeem(&codes[0]).await.expect(200);
        if n % 4 == 0 {
            reverse(app, &codes[0], &used).await.expect(200);
            let patch = api.raw(reqwest::Method::PATCH, &format!("/v1/members/{member}")).bearer_auth(&keys.ops);
            api.send(patch.header("if-match", "*").json(&json!({"nickname": "Linlin"}))).await.expect(200);
        }
    }
    for code in api.issue(&often, json!({"count": 24})).await.iter().take(12) {
        api.redeem(code).await.expect(200);
    }
    let codes = api.issue(&often, json!({"count": 2})).await;
    // Not before they were issued.
    let now = tessera::clock::Clock::system().now();
    let items: Vec<Value> = codes.iter().map(|code| item(1, code, now)).collect();
    let body = json!({"store_id": "S0001", "register": "9", "items": items});
    api.post("/v1/pos/offline-redemptions", &keys.pos, body).await.expect(200);
    // What limits days, stores and money has rows of its own.
    let limited = json!({"stock_per_day": 100, "stock_per_store": 100, "budget": 100_000, "budget_per_day": 100_000});
    let capped = api.rule(limited).await;
    for code in api.issue(&capped, json!({"count": 4})).await {
        api.redeem(&code).await.expect(200);
    }
    // Codes of an older system come by import.
    let mut sql = app.db.sql().await;
    let import = "update coupon set legacy_key = gen_random_uuid() where member_id is null;
                  insert into coupon_history_index (code_id, legacy_key)
                  select code_id, legacy_key from coupon where legacy_key is not null";
    sql.execute(sqlx::raw_sql(import)).await.unwrap();
}

async fn reverse(app: &TestApp, code: &str, used: &Response) -> Response {
    let body = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"]});
    let path = format!("/v1/coupons/{code}/reverse");
    app.client.post_numbered(&path, &app.client.keys.pos, &fresh_number(), body).await
}

async fn service(db: &TestDb) -> PgConnection {
    PgConnection::connect_with(&db.service()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_touches_what_it_claims_and_the_command_says_so() {
    let app = TestApp::spawn().await;
    fill(&app).await;
    let before = rows(&app.db).await;
    let report = proof::run(&mut service(&app.db).await, queries(), |_| {}).await.unwrap();
    assert!(report.ok(), "{}", report.render());
    // Every query is there, and each found what it looked for, on rows that lie in many leaves.
    assert_eq!(report.rows.len(), queries().filter(|query| !query.touches.is_empty()).count());
    let narrow = report.rows.iter().filter(|row| row.claims.values().all(|claim| *claim == Claim::Leaves(1)));
    for row in narrow {
        assert!(row.leaves.values().all(|leaves| leaves.len() == 1), "{}: {:?}", row.query, row.leaves);
    }
    let spread = app.db.count("select count(distinct tableoid) from coupon_receive").await;
    assert!(spread > 8, "the members lie in {spread} leaves only");

    let proved = tessera(&app.db, &["prove"]).await;
    assert!(proved.status.success(), "{}", said(&proved));
    assert!(said(&proved).ends_with(", 0 failed\n"), "{}", said(&proved));
    assert_eq!(rows(&app.db).await, before, "the proof leaves nothing behind");

    // Each real query fails when its claim is less than the truth.
    let mut conn = service(&app.db).await;
    for wide in queries().filter(|query| query.touches.iter().any(|touch| matches!(touch.claim, Claim::All { .. }))) {
        let text = std::fs::read_to_string(format!("sql/queries/{}.sql", wide.name)).unwrap();
        let narrowed: Vec<String> = text
            .lines()
            .map(|line| match line.split_once("=all (") {
                Some((head, _)) if line.starts_with("-- touches:") => format!("{head}=1"),
                _ => line.to_owned(),
            })
            .collect();
        let narrowed = Query::parse(&wide.name, &narrowed.join("\n")).unwrap();
        let report = proof::run(&mut conn, std::iter::once(&narrowed), |_| {}).await.unwrap();
        assert!(!report.ok(), "{} reads all leaves and passes for one", wide.name);
    }
    // Without their predicate the look-ups of the hot path are found out.
    for name in ["coupon/find", "member/find", "member_key/find", "redemption/find"] {
        let text = std::fs::read_to_string(format!("sql/queries/{name}.sql")).unwrap();
        let (head, predicate) = text.rsplit_once("where ").unwrap();
        let kind = if predicate.contains("uuid[]") { "uuid[]" } else { "bigint[]" };
        let everywhere = Query::parse(name, &format!("{head}where $1::{kind} is not null")).unwrap();
        let report = proof::run(&mut conn, std::iter::once(&everywhere), |_| {}).await.unwrap();
        assert!(report.render().contains("is read as a whole"), "{}", report.render());
    }
    // A dropped index makes the command fail and name it.
    let mut sql = app.db.sql().await;
    // Both that the id is in: read as a whole, the other one would do for it.
    sql.execute("drop index redemption_store").await.unwrap();
    sql.execute("alter table redemption drop constraint redemption_pk").await.unwrap();
    let proved = tessera(&app.db, &["prove"]).await;
    assert_eq!(proved.status.code(), Some(1), "{}", said(&proved));
    let failed: Vec<String> = said(&proved).lines().filter(|line| line.contains("FAILED")).map(str::to_owned).collect();
    assert!(failed.iter().any(|line| line.starts_with("redemption/find ")), "{failed:?}");
    assert!(said(&proved).contains("is read as a whole"), "{}", said(&proved));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_over_arrays_take_and_give_the_same_in_their_form_for_one_row() {
    let db = TestDb::new().await;
    let mut conn = db.sql().await;
    let mut shape = async |text: &'static str| {
        let statement = conn.prepare(text.into_sql_str()).await.unwrap_or_else(|error| panic!("{error}: {text}"));
        let taken = statement.parameters().and_then(|taken| taken.left().map(<[_]>::to_vec)).unwrap_or_default();
        let given: Vec<_> =
            statement.columns().iter().map(|one| (one.name().to_owned(), one.type_info().clone())).collect();
        (taken, given)
    };
    let mut wide = Vec::new();
    for query in queries().filter(|query| !query.touches.is_empty() && query.parent().contains("unnest(")) {
        let one = query.for_one(&[]);
        match one == query.parent() {
            true => wide.push(query.name.split('/').next().unwrap()),
            false => assert_eq!(shape(one).await, shape(query.parent()).await, "{}", query.name),
        }
    }
    wide.dedup();
    assert_eq!(wide, ["coupon_receive", "rotate"], "these are never about one row");
}

/// Rows by table.
async fn rows(db: &TestDb) -> Vec<i64> {
    let mut counts = Vec::new();
    for plan in tessera::partition::plans().iter() {
        counts.push(db.count(&format!("select count(*) from {}", plan.table)).await);
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_fails_where_a_sample_finds_nothing() {
    let db = TestDb::new().await;
    let proved = tessera(&db, &["prove"]).await;
    assert_eq!(proved.status.code(), Some(1), "{}", said(&proved));
    assert!(said(&proved).contains("the sample finds no row"), "{}", said(&proved));
}

#[test]
fn the_list_of_queries_that_read_all_leaves_is_frozen() {
    let wide: Vec<String> = queries()
        .filter(|query| query.touches.iter().any(|touch| matches!(touch.claim, Claim::All { .. })))
        .map(|query| query.name.clone())
        .collect();
    // Walks and samples of `tessera verify` and `tessera keys`, which name one leaf at a time, and a person's
    // whole history; nothing that a till waits for.
    insta::assert_snapshot!(wide.join("\n"), @"
    change_log/export
    register_log/export
    rotate/base_walk
    rotate/event_walk
    rotate/member_address_walk
    rotate/member_auth_version_walk
    rotate/member_auth_walk
    rotate/member_device_walk
    rotate/member_key_walk
    rotate/member_location_walk
    rotate/member_profile_mall_walk
    rotate/member_walk
    verify/conflict_pages
    verify/conflict_uses
    verify/conflict_walk
    verify/coupon_history_pages
    verify/coupon_history_walk
    verify/coupon_index_pages
    verify/coupon_index_walk
    verify/coupon_pages
    verify/coupon_receive_pages
    verify/coupon_receive_walk
    verify/coupon_walk
    verify/ledger_beyond
    verify/ledger_coupon_pages
    verify/ledger_coupon_walk
    verify/ledger_find
    verify/ledger_pages
    verify/ledger_range
    verify/member_key_pages
    verify/member_key_walk
    verify/member_pages
    verify/member_walk
    verify/part_money
    verify/part_rules
    verify/stock_index_rules
    verify/stock_rules
    verify/taken_pages
    verify/taken_walk
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_runs_in_two_processes_at_once_while_readers_hold_the_tables() {
    let db = TestDb::new().await;
    let listed = tessera(&db, &["partitions", "list"]).await;
    assert!(listed.status.success() && said(&listed).contains("coupon "), "{}", said(&listed));
    let mut reader = service(&db).await;
    reader.execute("begin").await.unwrap();
    for plan in tessera::partition::plans().iter() {
        reader.execute(AssertSqlSafe(format!("select count(*) from {}", plan.table))).await.unwrap();
    }
    let from = (tessera::clock::Clock::system().now() - chrono::TimeDelta::days(62)).format("%Y-%m-01").to_string();
    let upkeep = ["partitions", "upkeep", "--from", &from];
    let (one, other) = tokio::join!(tessera(&db, &upkeep), tessera(&db, &upkeep));
    // The reader's transaction is as old as it was, and goes on.
    let seen = reader.fetch_one("select count(*) from coupon").await.unwrap().get::<i64, _>(0);
    reader.execute("commit").await.unwrap();
    assert_eq!(seen, 0);
    let mut made = BTreeSet::new();
    for output in [&one, &other] {
        assert!(output.status.success(), "{}", said(output));
        for leaf in said(output).lines().filter_map(|line| line.strip_prefix("made ")) {
            assert!(made.insert(leaf.to_owned()), "{leaf} was made twice");
        }
    }
    assert!(made.contains(&format!("coupon_m{}", from[..7].replace('-', "_"))), "{made:?}");
    for leaf in &made {
        let attached = format!("select count(*) from pg_inherits where inhrelid = '{leaf}'::regclass");
        assert_eq!(db.count(&attached).await, 1, "{leaf}");
    }
    let again = tessera(&db, &upkeep).await;
    assert!(again.status.success() && !said(&again).contains("made "), "{}", said(&again));
    let listed = tessera(&db, &["partitions", "list"]).await;
    assert!(listed.status.success() && !said(&listed).contains("NOT ENOUGH"), "{}", said(&listed));
}
