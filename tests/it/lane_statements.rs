//! What the lane has prepared on its connections, and what becomes of it.

use std::{collections::HashMap, sync::Arc};

use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};
use tessera::{
    clock::Clock,
    coupon::read::{FindCoupon, FindRedemption},
    db::{
        is_missing_leaf,
        lane::{Lane, LaneError, LaneSettings, Read, Target, Tx, WriteError, Writer},
    },
    id::{CodeId, Day, RedemptionId},
    partition::{Leaf, plan, query},
};

use crate::{
    lane::until,
    support::{TestApp, TestDb},
};

/// A lane with a connection for each way: the short one of lone reads, a worker that reads, one that writes.
fn lane_of(db: &TestDb) -> Lane {
    let settings =
        LaneSettings { read_connections: 1, read_connections_max: 1, write_connections: 1, ..LaneSettings::default() };
    Lane::start(db.service(), settings)
}

fn today() -> Day {
    Day::from_date(Clock::system().now().date_naive())
}

fn leaf_of(day: Day) -> Leaf {
    plan("coupon").leaf_i64(CodeId::from_parts(day, 1).unwrap().get())
}

/// A read that does something else to its connection.
struct Spoil(&'static str);

impl Read for Spoil {
    type Key = i64;
    type Row = i64;

    fn leaf(&self, _: &i64) -> Leaf {
        leaf_of(today())
    }

    async fn fetch(&self, conn: &mut PgConnection, _: Leaf, _: &[i64]) -> Result<HashMap<i64, i64>, sqlx::Error> {
        sqlx::raw_sql(self.0).execute(conn).await?;
        Ok(HashMap::new())
    }
}

/// A write that asks for coupons on leaves, and then does something else to its connection.
struct Asking;

#[derive(Default)]
struct Asked {
    on: Vec<(&'static str, Day)>,
    then: &'static str,
}

impl Writer for Asking {
    type Op = Asked;
    type Answer = ();

    const NAME: &'static str = "asking";

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<Asked>]) -> Result<Vec<Option<()>>, WriteError> {
        for op in ops {
            for (name, day) in &op.on {
                let statement = tx.statement(query(name), Target::Leaf(leaf_of(*day))).bind(vec![1_i64]);
                tx.fetch::<(i64,)>(vec![statement]).await?;
            }
            sqlx::raw_sql(op.then).execute(tx.conn().await?).await?;
        }
        Ok(vec![Some(()); ops.len()])
    }

    async fn look_up(&self, _: &mut Tx<'_>, _: &Asked) -> Result<Option<()>, WriteError> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_lost_its_statements_costs_no_read_its_answer() {
    let db = TestDb::new().await;
    let lane = lane_of(&db);
    let code_id = CodeId::from_parts(today(), 1).unwrap();
    let redemption_id = RedemptionId::from_parts(today(), 1).unwrap();
    let (coupons, redemptions) = (lane.reader(FindCoupon), lane.reader(FindRedemption));
    let is_short = async || coupons.find(code_id).await.unwrap().1.queue.is_zero();
    for spoil in ["deallocate all", "prepare sqlx_s_2 as select 2; prepare sqlx_s_3 as select 3"] {
        let spoil = lane.reader(Spoil(spoil));
        for alone in [true, false] {
            if alone {
                until("nobody stands between a lone read and its connection", is_short).await;
                assert!(spoil.find(1).await.unwrap().1.queue.is_zero());
                assert!(coupons.find(code_id).await.unwrap().0.is_none());
                assert!(redemptions.find(redemption_id).await.unwrap().0.is_none());
            } else {
                coupons.find_many(vec![code_id]).await.unwrap();
                spoil.find_many(vec![1]).await.unwrap();
                assert!(coupons.find_many(vec![code_id]).await.unwrap().0.is_empty());
                assert!(redemptions.find_many(vec![redemption_id]).await.unwrap().0.is_empty());
            }
        }
    }
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_lost_its_statements_costs_no_write_its_answer() {
    let db = TestDb::new().await;
    let lane = lane_of(&db);
    let writer = lane.writer(Asking);
    for then in ["deallocate all", "prepare tessera_2 as select 2"] {
        writer.write(Asked { on: vec![("coupon/find", today())], then }).await.unwrap();
        for name in ["coupon/find", "coupon/lock", "coupon/find"] {
            writer.write(Asked { on: vec![(name, today())], then: "" }).await.unwrap();
        }
    }
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_cannot_be_prepared_is_rolled_back_only_in_a_transaction() {
    let db = TestDb::new().await;
    let lane = lane_of(&db);
    let writer = lane.writer(Asking);
    let leafless = Day::from_date("2080-01-01".parse().unwrap());
    let session = "select pid, state, split_part(query, ' ', 1) from pg_stat_activity \
        where datname = current_database() and application_name = 'tessera lane'";
    let mut sessions = Vec::new();
    for (before, last) in [(None, "prepare"), (Some(("coupon/find", today())), "rollback"), (None, "prepare")] {
        let on = before.into_iter().chain([("coupon/find", leafless)]).collect();
        let error = writer.write(Asked { on, then: "" }).await.unwrap_err();
        assert!(matches!(&error, LaneError::Failed(cause) if is_missing_leaf(cause)), "{error:?}");
        let (pid, state, sent): (i32, String, String) =
            sqlx::query_as(session).fetch_one(&mut db.sql().await).await.unwrap();
        assert_eq!((&*state, &*sent), ("idle", last));
        sessions.push(pid);
        writer.write(Asked { on: vec![("coupon/find", today())], then: "" }).await.unwrap();
    }
    sessions.dedup();
    assert_eq!(sessions.len(), 1, "the connection is kept");
    lane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_costs_nobody_an_answer() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({"uses": 9})).await;
    let codes = api.issue(&rule, json!({"count": 20})).await;
    let use_all = async || {
        // Many at once, so that every connection has what it needs prepared.
        let each = codes.iter().map(async |code| {
            api.get(&format!("/v1/coupons/{code}"), &api.keys.pos).await.expect(200);
            api.redeem(code).await.expect(200);
        });
        futures_util::future::join_all(each).await;
    };
    use_all().await;
    for kind in ["varchar", "text"] {
        let alter = format!("alter table coupon alter column order_ref type {kind}");
        sqlx::raw_sql(AssertSqlSafe(alter)).execute(&mut app.db.sql().await).await.unwrap();
        use_all().await;
    }
    assert_eq!(app.db.count("select count(*) from redemption").await, 60);
    app.stop().await;
}
