//! Rows that are brought into memory before a batch that would wait for them one by one.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tessera::{
    coupon::warm::Warmth,
    id::{CodeId, RuleId},
    partition::plan,
};

use crate::{
    lane::{Node, assert_verified, patient, until, waiting_for_locks},
    support::{TestApp, TestDb, server::fresh_number},
};

/// Keeps everybody out of the index rows of a rule until it is closed.
async fn shut(db: &TestDb, rule_id: RuleId) -> PgConnection {
    let mut conn = db.sql().await;
    let leaf = plan("coupon_index").leaf_i64(rule_id.get());
    let sql = format!("begin; lock table {leaf} in access exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    conn
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_brought_in_only_after_some_were_slow_and_only_those_that_will_be_written() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let rule = api.rule(json!({})).await;
    let rule_id: RuleId = rule.parse().unwrap();
    api.issue(&rule, json!({"count": 2})).await;
    let mut sql = db.sql().await;
    let codes: Vec<CodeId> = sqlx::query_scalar("select code_id from coupon").fetch_all(&mut sql).await.unwrap();
    let codes: BTreeSet<CodeId> = codes.into_iter().collect();
    let node = Node::start(db, patient()).await;
    let warmth = Warmth::new(&node.app.lane);
    let shut = shut(db, rule_id).await;

    // Nobody has been slow; two that took a while together were not.
    warmth.saw(100, Duration::from_millis(30));
    warmth.warm(|| (codes.clone(), codes.clone())).await;
    // One coupon is read as soon by the batch itself.
    warmth.saw(2, Duration::from_millis(30));
    let one: BTreeSet<CodeId> = codes.iter().copied().take(1).collect();
    warmth.warm(|| (one.clone(), one.clone())).await;
    // Coupons that are only locked have no index rows to write.
    warmth.warm(|| (codes.clone(), BTreeSet::new())).await;
    assert_eq!(waiting_for_locks(db).await, 0);

    // It gives up waiting, not reading.
    warmth.saw(2, Duration::from_millis(30));
    warmth.warm(|| (codes.clone(), codes.clone())).await;
    assert_eq!(waiting_for_locks(db).await, 1);
    shut.close().await.unwrap();
    until("the rows are read", async || node.app.lane.waiting().0 == 0 && waiting_for_locks(db).await == 0).await;
    node.app.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basket_after_a_slow_redemption_has_its_rows_read_first_and_is_redeemed_all_the_same() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let member = api.member("+8613800000001").await;
    let rule = api.rule(json!({"threshold": 0})).await;
    let codes = api.issue(&rule, json!({"member_id": member, "count": 3})).await;

    // Rows of a table that somebody holds are as slow to come as those of a disk.
    let mut holder = db.sql().await;
    sqlx::raw_sql("begin; lock table coupon in access exclusive mode").execute(&mut holder).await.unwrap();
    let slow = async {
        until("the redemption waits", async || waiting_for_locks(db).await == 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        holder.close().await.unwrap();
    };
    tokio::join!(api.redeem(&codes[0]), slow).0.expect(200);

    let shut = shut(db, rule.parse().unwrap()).await;
    let body = json!({"store_id": "S0001", "order_ref": fresh_number(), "amount": 8000,
        "coupons": [{"code": codes[1]}, {"code": codes[2]}]});
    let number = fresh_number();
    let basket = api.post_numbered("/v1/redemptions", &api.keys.pos, &number, body);
    let seen = async {
        // The batch's own statements come by name.
        let reading = "select count(*) from pg_stat_activity where datname = current_database() \
            and wait_event_type = 'Lock' and query like '%from coupon_index\\_%limit 1%' and query not like 'prepare%'";
        until("the index rows are read", async || db.count(reading).await == 1).await;
        shut.close().await.unwrap();
    };
    tokio::join!(basket, seen).0.expect(200);
    assert_eq!(db.count("select count(*) from coupon where state = 2").await, 3);
    assert_verified(db).await;
    app.stop().await;
}
