//! `tessera verify` beside tills that sell: what is planted in a pair of tables is named, that and nothing else, and is
//! mended. Every damage by itself stands in `src/verify/tests.rs`; here the rows are the service's own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use tessera::{
    id::CodeId,
    verify::{self, Report, VerifySettings},
};
use uuid::Uuid;

use crate::support::{
    TestApp, TestDb,
    command::{said, tessera},
    server::{Client, fresh_number},
};

const TILLS: usize = 4;

async fn compare(db: &TestDb, repair: bool) -> Report {
    let settings = VerifySettings { repair, chunk_rows: 500, ..VerifySettings::default() };
    verify::run(&settings, db.service(), db.secrets(), |_| {}).await.unwrap()
}

/// The differences as `kind table: columns`, sorted, without keys and what became of them.
fn named(report: &Report) -> Vec<String> {
    let mut named: Vec<String> = report
        .differences()
        .map(|found| format!("{} {} {}", found.kind, found.table, found.columns.join(" ")).trim_end().to_owned())
        .collect();
    named.sort();
    named
}

async fn execute(conn: &mut PgConnection, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(done.rows_affected(), 1, "{sql}");
}

/// Issues, redeems and sometimes takes back, until told to stop.
async fn sell(client: Client, rule: String, member: String, stop: Arc<AtomicBool>, sold: Arc<AtomicUsize>) {
    for sale in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = if sale % 2 == 0 { json!({"member_id": member}) } else { json!({"count": 2}) };
        let codes = client.issue(&rule, body).await;
        let redeemed = client.redeem(&codes[0]).await.expect(200);
        if sale % 3 == 0 {
            let body = json!({"store_id": "S0001", "redemption_id": redeemed.json["redemption_id"]});
            let path = format!("/v1/coupons/{}/reverse", codes[0]);
            client.post_numbered(&path, &client.keys.pos, &fresh_number(), body).await.expect(200);
        }
        sold.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is planted in rows that no till touches, and what the report must say of it.
fn plantings(member: &str, rule: &str, limited: &str) -> Vec<(String, Vec<&'static str>)> {
    let quiet =
        |n: usize| format!("(select code_id from coupon where rule_id = {rule} order by code_id offset {n} limit 1)");
    // Far from every serial that is minted here.
    let stranger = format!("({} | 5)", quiet(0).replace("select code_id", "select (code_id >> 41) << 41"));
    vec![
        (
            format!("delete from coupon_receive where code_id = {}", quiet(0)),
            vec!["missing coupon_receive", "altered member_rule taken"],
        ),
        (
            format!("insert into coupon_receive values ({member}, {stranger}, {rule}, now(), 3)"),
            vec!["extra coupon_receive"],
        ),
        (
            format!("update coupon_receive set valid_until = now() where code_id = {}", quiet(1)),
            vec!["altered coupon_receive valid_until"],
        ),
        (
            format!("delete from coupon_index where code_id = {}", quiet(1)),
            vec!["missing coupon_index", "altered coupon_stock issued voided"],
        ),
        (
            format!("insert into coupon_index values ({rule}, {stranger}, now(), null, 3, null)"),
            vec!["extra coupon_index"],
        ),
        (
            format!("update coupon_index set referrer = 'X' where code_id = {}", quiet(2)),
            vec!["altered coupon_index referrer"],
        ),
        (
            format!("insert into coupon_history_index (code_id, legacy_key) values ({}, '{}')", quiet(2), Uuid::nil()),
            vec!["extra coupon_history_index"],
        ),
        (
            format!("update coupon set legacy_key = '{}' where code_id = {}", Uuid::max(), quiet(3)),
            vec!["missing coupon_history_index"],
        ),
        (
            format!("update coupon_stock set issued = issued + 3 where rule_id = {rule}"),
            vec!["altered coupon_stock issued voided"],
        ),
        (format!("delete from coupon_stock where rule_id = {rule}"), vec!["missing coupon_stock"]),
        (
            format!("update coupon_stock set issued = issued + 1 where rule_id = {limited} and period <> 0"),
            vec!["altered coupon_stock issued voided"],
        ),
        (format!("delete from coupon_stock where rule_id = {limited} and period <> 0"), vec!["missing coupon_stock"]),
        (
            format!("update coupon_stock set spent = spent + 1 where rule_id = {limited} and store_no <> 0"),
            vec!["altered coupon_stock spent"],
        ),
        (
            format!("update coupon_stock set spent = 0 where rule_id = {limited} and store_no = 0 and period = 0"),
            vec!["altered coupon_stock spent"],
        ),
        (format!("update member_rule set taken = taken + 1 where rule_id = {rule}"), vec!["altered member_rule taken"]),
        (format!("delete from member_rule where rule_id = {rule}"), vec!["missing member_rule"]),
        (format!("update coupon set uses = 0 where code_id = {}", quiet(4)), vec!["altered coupon uses"]),
        (format!("delete from redemption where code_id = {}", quiet(5)), vec!["missing redemption"]),
        (
            format!(
                "insert into redemption (redemption_id, code_id, rule_id, recorded_at, amount, discount, rule_version,
                     store_no, kind, order_ref)
                 select code_id, code_id, rule_id, now(), 1, 1, 1, 1, 1, 'x' from coupon where code_id = {}",
                quiet(6)
            ),
            vec!["altered coupon uses state"],
        ),
        (format!("delete from member_key where member_id = {member}"), vec!["missing member_key"]),
        (format!("update member_key set kind = 4 where member_id = {member}"), vec!["altered member_key kind"]),
        (format!("insert into member_key values ({member}, now(), '{}', 1, 1)", Uuid::nil()), vec!["extra member_key"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_was_planted_while_tills_run_and_mends_it() {
    let app = TestApp::spawn().await;
    let client = &app.client;
    let member = client.member("+8613800000001").await;
    let quiet = client.rule(json!({})).await;
    for _ in 0..8 {
        client.issue(&quiet, json!({"member_id": member})).await;
    }
    let limits = json!({"stock_per_day": 9, "budget": 9000, "budget_per_store": 9000});
    let limited = client.rule(limits).await;
    let code = client.issue(&limited, json!({"count": 2})).await.remove(0);
    client.redeem(&code).await.expect(200);
    // Two of them are used, the fifth and the sixth in the order of the table.
    let mut conn = app.db.sql().await;
    for n in [4, 5] {
        let id: i64 = app
            .db
            .count(&format!("select code_id from coupon where rule_id = {quiet} order by code_id offset {n} limit 1"))
            .await;
        let code = app.db.secrets().codes().format(CodeId::new(id).unwrap());
        client.redeem(&code).await.expect(200);
    }

    let (stop, sold) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let busy = client.rule(json!({})).await;
    let mut tills = Vec::new();
    for till in 0..TILLS {
        let holder = client.member(&format!("+861390000000{till}")).await;
        tills.push(tokio::spawn(sell(client.clone(), busy.clone(), holder, stop.clone(), sold.clone())));
    }
    let clean = compare(&app.db, false).await;
    assert!(clean.is_clean(), "{}", clean.render());
    let some = VerifySettings { sample: Some("50%".parse().unwrap()), chunk_rows: 500, ..VerifySettings::default() };
    let sampled = verify::run(&some, app.db.service(), app.db.secrets(), |_| {}).await.unwrap();
    assert!(sampled.is_clean(), "{}", sampled.render());
    for (sql, expected) in plantings(&member, &quiet, &limited) {
        execute(&mut conn, &sql).await;
        let report = compare(&app.db, false).await;
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(named(&report), expected, "{sql}\n{}", report.render());
        let repaired = compare(&app.db, true).await;
        assert!(repaired.is_clean(), "{sql}\n{}", repaired.render());
    }
    stop.store(true, Ordering::Relaxed);
    for till in tills {
        till.await.unwrap();
    }
    assert!(sold.load(Ordering::Relaxed) > 0);
    let after = compare(&app.db, false).await;
    assert!(after.is_clean(), "after {} sales: {}", sold.load(Ordering::Relaxed), after.render());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_says_in_words_and_in_json_what_it_looked_at_and_what_it_did_not_check() {
    let app = TestApp::spawn().await;
    let member = app.client.member("+8613800000001").await;
    let mut rules = Vec::new();
    for _ in 0..40 {
        rules.push(app.client.rule(json!({})).await);
    }
    for rule in &rules {
        app.client.issue(rule, json!({"member_id": member})).await;
    }
    let told = tessera(&app.db, &["verify", "--sample", "1%", "--seed", "5"]).await;
    assert_eq!(told.status.code(), Some(0), "{}", said(&told));
    let text = said(&told);
    assert!(text.contains("looked at 1% of each leaf, drawn by --seed 5\n"), "{text}");
    // Each leaf has few pages and gives one; of the rules of each leaf one is counted.
    assert!(text.contains("not checked: coupon_index / coupon_stock: ") && text.contains(" of 40 rules"), "{text}");
    assert!(text.ends_with("clean as far as looked at\n"), "{text}");
    assert_eq!(said(&tessera(&app.db, &["verify"]).await).lines().last(), Some("clean"));

    let sql = format!("delete from coupon_receive where rule_id = {}", rules[0]);
    execute(&mut app.db.sql().await, &sql).await;
    for (args, sample) in
        [(&["verify", "--json"][..], json!(null)), (&["verify", "--json", "--sample", "1"], json!(1.0))]
    {
        let told = tessera(&app.db, args).await;
        assert_eq!(told.status.code(), Some(1), "{}", said(&told));
        let report: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!((&report["clean"], &report["sample"]["share"]), (&json!(false), &sample));
        let pair = report["pairs"].as_array().unwrap().iter().find(|pair| pair["pair"] == "coupon / coupon_receive");
        let found = &pair.unwrap()["differences"][0];
        assert_eq!((&found["kind"], &found["table"]), (&json!("missing"), &json!("coupon_receive")));
        assert_eq!(pair.unwrap()["not_checked"], json!([]));
    }
    // What can't be meant is a misuse.
    for args in [&["--sample", "1%", "--repair"][..], &["--seed", "1"], &["--sample", "0"], &["--sample", "101%"]] {
        let told = tessera(&app.db, &[&["verify"], args].concat()).await;
        assert_eq!(told.status.code(), Some(2), "{args:?}: {}", said(&told));
    }
    app.stop().await;
}
