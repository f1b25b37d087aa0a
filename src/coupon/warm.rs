//! Rows brought into memory before a batch that would wait for the disk row by row.
//!
//! A batch locks and reads the rows of its requests one after the other. In memory that takes tens of microseconds a
//! row; from a disk ten times as long, and the few writers there are leave the disk idle meanwhile. So when the rows of
//! a batch were slow to come, for a while each batch first has its rows read through the lane's readers, of which there
//! are more when they are late: the disk gets many requests at once, and the batch finds its pages in memory.
//!
//! Nothing is decided by what is read here, and what fails is left out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use super::{
    read::FindCoupon,
    store::{index_leaf, receive_leaf},
    validate::read::FindStanding,
};
use crate::{
    db::lane::{Lane, Read, Reader},
    id::{CodeId, MemberId, RuleId},
    partition::{Leaf, query},
};

/// The rows of a batch were slow to come when they took longer than this,
const SLOW_BATCH: Duration = Duration::from_millis(5);
/// and this for each request besides. Of rows in memory even a busy machine brings one in a fraction of it.
const SLOW_REQUEST: Duration = Duration::from_micros(500);
/// For so long batches are warmed after one that was slow; then one of them shows whether it is still needed.
const WARMED_FOR: Duration = Duration::from_secs(5);
/// A batch waits no longer for its rows to be brought in.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Which rows a batch will want besides its coupons, and whether it is worth bringing them in.
pub struct Warmth {
    coupon: Reader<FindCoupon>,
    standing: Reader<FindStanding>,
    received: Reader<TouchReceived>,
    indexed: Reader<TouchIndexed>,
    epoch: Instant,
    /// Milliseconds from the epoch until which batches are warmed.
    until_ms: AtomicU64,
}

impl Warmth {
    pub fn new(lane: &Lane) -> Self {
        Self {
            coupon: lane.reader(FindCoupon),
            standing: lane.reader(FindStanding),
            received: lane.reader(TouchReceived),
            indexed: lane.reader(TouchIndexed),
            epoch: Instant::now(),
            until_ms: AtomicU64::new(0),
        }
    }

    /// Learns how long the rows of so many requests took to come.
    pub fn saw(&self, requests: usize, took: Duration) {
        if took > SLOW_BATCH + SLOW_REQUEST * requests as u32 {
            self.until_ms.store(millis(self.epoch.elapsed() + WARMED_FOR), Ordering::Relaxed);
        }
    }

    /// Brings in the rows of coupons that are about to be locked, if rows have been slow to come. `wanted` gives them, and
    /// those whose index rows will be written too; it is not asked otherwise.
    pub async fn warm(&self, wanted: impl FnOnce() -> (BTreeSet<CodeId>, BTreeSet<CodeId>)) {
        if millis(self.epoch.elapsed()) >= self.until_ms.load(Ordering::Relaxed) {
            return;
        }
        let (coupons, changed) = wanted();
        // Of one coupon there is nothing to bring in at once.
        if coupons.len() < 2 {
            return;
        }
        metrics::counter!("tessera_warmed_batches_total").increment(1);
        // What takes longer goes on in the lane; only the batch does not wait for it.
        let _ = tokio::time::timeout(WAIT_MAX, self.bring_in(coupons, &changed)).await;
    }

    async fn bring_in(&self, coupons: BTreeSet<CodeId>, changed: &BTreeSet<CodeId>) {
        let Ok((found, _)) = self.coupon.find_many(coupons.into_iter().collect()).await else { return };
        let holders: BTreeSet<MemberId> = found.values().filter_map(|coupon| coupon.holder).collect();
        let written = || found.values().filter(|coupon| changed.contains(&coupon.code_id));
        let received = written().filter_map(|coupon| Some((coupon.holder?, coupon.code_id))).collect();
        let indexed = written().map(|coupon| (coupon.rule_id, coupon.code_id)).collect();
        let _ = tokio::join!(
            self.standing.find_many(holders.into_iter().collect()),
            self.received.find_many(received),
            self.indexed.find_many(indexed),
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `coupon_receive/find`.
struct TouchReceived;

impl Read for TouchReceived {
    type Key = (MemberId, CodeId);
    type Row = ();

    fn leaf(&self, (member_id, _): &(MemberId, CodeId)) -> Leaf {
        receive_leaf(*member_id)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[(MemberId, CodeId)],
    ) -> Result<HashMap<(MemberId, CodeId), ()>, sqlx::Error> {
        touch(conn, query("coupon_receive/find").on(&[leaf]), keys).await
    }
}

/// `coupon_index/find`.
struct TouchIndexed;

impl Read for TouchIndexed {
    type Key = (RuleId, CodeId);
    type Row = ();

    fn leaf(&self, (rule_id, _): &(RuleId, CodeId)) -> Leaf {
        index_leaf(*rule_id)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[(RuleId, CodeId)],
    ) -> Result<HashMap<(RuleId, CodeId), ()>, sqlx::Error> {
        touch(conn, query("coupon_index/find").on(&[leaf]), keys).await
    }
}

/// Reads index rows, that they be in memory; what they say is of no interest.
async fn touch<K: Copy + Into<i64>>(
    conn: &mut PgConnection,
    sql: &'static str,
    keys: &[(K, CodeId)],
) -> Result<HashMap<(K, CodeId), ()>, sqlx::Error> {
    let (first, codes): (Vec<i64>, Vec<i64>) = keys.iter().map(|&(first, code)| (first.into(), code.get())).unzip();
    sqlx::query(sql).bind(first).bind(codes).fetch_all(conn).await?;
    Ok(HashMap::new())
}
