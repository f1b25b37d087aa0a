//! A read that finds nobody else at the lane.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection};
use tessera::{coupon::read::FindCoupon, db::lane::LaneError, id::CodeId, partition::plan};

use crate::{
    lane::{Node, SOON, patient, until, waiting_for_locks},
    support::{TestDb, server::Keys},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_read_changes_no_tasks_and_one_that_is_given_up_is_ended_and_leaves_its_connection_whole() {
    let db = TestDb::new().await;
    Keys::make(&db).await;
    let node = Node::start(&db, patient()).await;
    let reader = node.app.lane.reader(FindCoupon);
    let today = node.app.zone.day_of(node.app.clock.now());
    let code_id = CodeId::from_parts(today, 1).unwrap();
    // The connection is opened when somebody could have used it.
    let is_short = async || reader.find(code_id).await.unwrap().1.queue.is_zero();
    until("nobody stands between a lone read and its connection", is_short).await;
    let sessions = "select pid from pg_stat_activity \
        where datname = current_database() and application_name = 'tessera lane' order by pid";
    let mut sql = db.sql().await;
    let before: Vec<i32> = sqlx::query_scalar(sessions).fetch_all(&mut sql).await.unwrap();

    let mut lock = db.sql().await;
    let leaf = plan("coupon").leaf_i64(code_id.get());
    let statement = format!("begin; lock table {leaf} in access exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut lock).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(50), reader.find(code_id)).await;
    assert!(given_up.is_err(), "it waits for the lock");
    assert_eq!((node.app.lane.waiting().0, waiting_for_locks(&db).await), (1, 1), "it is not given up");
    // Others come meanwhile, and some of them go away as well.
    let others: Vec<_> = (0..40)
        .map(|n| {
            let reader = reader.clone();
            let patience = if n % 2 == 0 { Duration::from_millis(20) } else { SOON };
            tokio::spawn(async move { tokio::time::timeout(patience, reader.find(code_id)).await })
        })
        .collect();
    until("the impatient have gone", async || others.iter().filter(|other| other.is_finished()).count() == 20).await;
    lock.close().await.unwrap();
    for (n, other) in others.into_iter().enumerate() {
        let answer = other.await.unwrap();
        assert_eq!(answer.is_ok(), n % 2 == 1);
        assert!(answer.is_err() || answer.unwrap().unwrap().0.is_none());
    }
    until("all have ended", async || node.app.lane.waiting().0 == 0).await;
    until("the next one goes the short way again", is_short).await;
    let after: Vec<i32> = sqlx::query_scalar(sessions).fetch_all(&mut sql).await.unwrap();
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} {after:?}");

    // One that dies costs nobody an answer.
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
        where datname = current_database() and application_name = 'tessera lane'";
    db.count(kill).await;
    for _ in 0..20 {
        assert!(reader.find(code_id).await.unwrap().0.is_none());
    }
    until("it was opened again", is_short).await;
    node.app.stop().await;
    assert!(matches!(reader.find(code_id).await, Err(LaneError::Stopping)));
    until("its connections are closed", async || db.count(&format!("select count(*) from ({sessions}) s")).await == 0)
        .await;
}
