//! Connections that the lane opens besides when reads wait for the disk.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::PgConnection;
use tessera::{
    db::lane::{Lane, LaneSettings, Read},
    partition::{Leaf, plan},
};

use crate::support::TestDb;

const SOON: Duration = Duration::from_secs(20);

/// A read that takes its time, as one does that waits for the disk, and tells how many were under way at once.
#[derive(Clone, Default)]
struct Slow {
    under_way: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Read for Slow {
    type Key = i64;
    type Row = i64;

    fn leaf(&self, key: &i64) -> Leaf {
        plan("member").leaf_i64(*key)
    }

    async fn fetch(&self, conn: &mut PgConnection, _: Leaf, keys: &[i64]) -> Result<HashMap<i64, i64>, sqlx::Error> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let slept = sqlx::query("select pg_sleep(0.02)").execute(conn).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        slept?;
        Ok(keys.iter().map(|key| (*key, *key)).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_wait_for_the_disk_get_more_connections_and_no_more_than_that() {
    let db = TestDb::new().await;
    for (connections, most) in [(1, 1), (2, 5)] {
        let settings =
            LaneSettings { read_connections: connections, read_connections_max: most, ..LaneSettings::default() };
        let lane = Lane::start(db.service(), settings);
        let slow = Slow::default();
        let reader = lane.reader(slow.clone());
        let callers = (0..32_i64).map(|caller| {
            let reader = reader.clone();
            tokio::spawn(async move {
                for turn in 0..6 {
                    let key = caller * 1_000 + turn;
                    assert_eq!(reader.find(key).await.unwrap().0, Some(key));
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
        assert_eq!(slow.most.load(Ordering::SeqCst), most as u64, "{connections} connections, {most} at most");
        tokio::time::timeout(SOON, lane.stop()).await.expect("it stops, helpers and all");
    }
}
