//! Leaves grow under the plans of connections that live for months.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Column, Connection, Executor, PgConnection, Row, TypeInfo, ValueRef};
use tessera::{
    clock::Zone,
    partition::{Query, query},
};

use crate::support::{TestApp, TestDb, server::fresh_number};

/// What finds rows by a whole key while a till waits. Each table's neighbours share the first part of the key.
const BY_KEY: [&str; 17] = [
    "coupon/lock",
    "coupon/lock_free",
    "coupon/update_use",
    "coupon_index/find",
    "coupon_index/update_holder",
    "coupon_index/update_state",
    "coupon_receive/find",
    "coupon_receive/update_state",
    "coupon_stock/find",
    "coupon_stock/lock",
    "coupon_stock/update",
    "member_rule/lock",
    "member_rule/update",
    "redemption/lock",
    "redemption/of_till",
    "redemption/update_reversed",
    "request/find",
];
/// How a table grows: the column in which its rows differ.
const GROWN: [(&str, &str); 7] = [
    ("coupon", "'code_id', (x.r).code_id + n"),
    ("coupon_index", "'code_id', (x.r).code_id + n"),
    ("coupon_receive", "'code_id', (x.r).code_id + n"),
    ("coupon_stock", "'store_no', (x.r).store_no + n"),
    ("member_rule", "'rule_id', (x.r).rule_id + n"),
    ("redemption", "'redemption_id', (x.r).redemption_id + n, 'code_id', (x.r).code_id + n"),
    ("request", "'key', md5(n::text)"),
];
const ROWS: usize = 20_000;
/// Blocks that one row may cost: the pages of its index and its heap, and those of its new version. A walk through the
/// leaf costs hundreds.
const BLOCKS_MAX: u64 = 40;

/// As the connections of the lane are set.
async fn lane_like(db: &TestDb) -> PgConnection {
    let settings = ["plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_hashjoin = off"];
    let mut conn = PgConnection::connect_with(&db.service()).await.unwrap();
    for setting in settings.into_iter().chain(["enable_mergejoin = off", "jit = off"]) {
        conn.execute(AssertSqlSafe(format!("set {setting}"))).await.unwrap();
    }
    conn
}

fn statement(query: &Query, form: &str) -> String {
    format!("{}_{form}", query.name.replace('/', "_"))
}

/// Both forms of each statement, through the parent, so that every leaf is planned for.
fn forms(query: &'static Query) -> [(&'static str, &'static str); 2] {
    [("many", query.parent()), ("one", query.for_one(&[]))]
}

async fn blocks(conn: &mut PgConnection, query: &Query, form: &str, arguments: &str) -> u64 {
    let explain = format!("explain (analyze, buffers, format json) execute {} ({arguments})", statement(query, form));
    conn.execute("begin").await.unwrap();
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *conn).await.unwrap();
    conn.execute("rollback").await.unwrap();
    let plan: Value = serde_json::from_str(row.try_get_raw(0).unwrap().as_str().unwrap()).unwrap();
    let root = &plan[0]["Plan"];
    ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|name| root[name].as_u64().unwrap()).sum()
}

/// The sample of a query as literals.
async fn arguments(conn: &mut PgConnection, query: &Query) -> String {
    let row = sqlx::raw_sql(AssertSqlSafe(query.sample.clone().unwrap())).fetch_one(conn).await.unwrap();
    let literals = (0..row.len()).map(|at| {
        let value = row.try_get_raw(at).unwrap();
        if value.is_null() {
            return "null".to_owned();
        }
        let text = value.as_str().unwrap().replace('\'', "''");
        format!("'{text}'::{}", row.column(at).type_info().name())
    });
    literals.collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_made_on_a_young_leaf_finds_a_row_by_its_key_when_the_leaf_has_grown() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let rule = api.rule(json!({"per_member": 3, "stock": 1000})).await;
    let member = api.member("+8613800000001").await;
    let code = api.issue(&rule, json!({"member_id": member})).await.remove(0);
    let today = Zone::DEFAULT.day_of(app.clock.now());
    let sale = json!({"store_id": "S0001", "register": "1", "business_date": today, "sequence": 1, "order_ref": "1",
        "amount": 8000});
    let used = api.post(&format!("/v1/coupons/{code}/redeem"), &keys.pos, sale).await.expect(200);
    let undo = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"]});
    api.post_numbered(&format!("/v1/coupons/{code}/reverse"), &keys.pos, &fresh_number(), undo).await.expect(200);

    // The leaves have a row or two, and PostgreSQL has been told so; nobody tells it more.
    let mut sql = app.db.sql().await;
    for (table, _) in GROWN {
        let leaves: Vec<String> =
            sqlx::query_scalar("select inhrelid::regclass::text from pg_inherits where inhparent = $1::regclass")
                .bind(table)
                .fetch_all(&mut sql)
                .await
                .unwrap();
        for leaf in leaves {
            let young = format!("alter table {leaf} set (autovacuum_enabled = off); analyze {leaf}");
            sqlx::raw_sql(AssertSqlSafe(young)).execute(&mut sql).await.unwrap();
        }
    }
    let mut conn = lane_like(&app.db).await;
    for query in BY_KEY.map(query) {
        for (form, text) in forms(query) {
            let prepare = format!("prepare {} as {text}", statement(query, form));
            conn.execute(AssertSqlSafe(prepare)).await.unwrap();
            let arguments = arguments(&mut conn, query).await;
            blocks(&mut conn, query, form, &arguments).await;
        }
    }
    for (table, different) in GROWN {
        let grow = format!(
            "insert into {table} select p.* from (select r from {table} r limit 1) x, generate_series(1, {ROWS}) n,
             lateral jsonb_populate_record(x.r, jsonb_build_object({different})) p"
        );
        sql.execute(AssertSqlSafe(grow)).await.unwrap();
    }
    let mut dear = Vec::new();
    for query in BY_KEY.map(query) {
        let arguments = arguments(&mut conn, query).await;
        for (form, _) in forms(query) {
            let spent = blocks(&mut conn, query, form, &arguments).await;
            if spent > BLOCKS_MAX {
                dear.push(format!("{}, {form}: {spent} blocks for one row", query.name));
            }
        }
    }
    assert!(dear.is_empty(), "{dear:#?}");
    app.stop().await;
}
