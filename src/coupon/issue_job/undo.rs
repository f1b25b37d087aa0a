//! Takes back what an issue job did, as a job of its own: coupons that nobody used are made void.
//!
//! Each coupon is locked and decided as one that is made void alone, so that of an undo and a redemption that meet one comes
//! first. What cannot be taken back is named: its row is the coupon's in the job's list of codes. Stock and limits are given
//! back in the transaction of the slice, an event tells of it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::of_desk;
use crate::{
    coupon::{
        Coupon,
        decide::{self, Undone},
        desk::Desk,
        store,
        world::{StockKey, World},
    },
    db::lane::Tx,
    event::{self, Kind as EventKind, NewEvent},
    id::{CodeId, EventId, JobId, MemberId, RuleId},
    job::{Checkpoint, Failure, Job, JobError, file::FileReader, range, runner::Work, store::Progress},
    partition::{self, Closed, Leaf, plan},
};

/// What is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub rule_id: RuleId,
    /// The issue job.
    pub of: JobId,
}

/// Makes coupons of a job void. Cheap to clone.
#[derive(Clone)]
pub struct IssueUndo {
    pub desk: Desk,
}

/// Coupons to be made void, in the order of the job.
pub struct Slice {
    options: Options,
    first: i64,
    code_ids: Vec<CodeId>,
    /// Months among theirs that take no rows any more.
    closed: BTreeMap<Leaf, Closed>,
    event_id: EventId,
    end: (Checkpoint, bool),
}

/// The coupons of a job from a position on, at most `max`.
pub(super) async fn code_ids(
    desk: &Desk,
    conn: &mut PgConnection,
    job_id: JobId,
    from: i64,
    max: usize,
) -> Result<Vec<CodeId>, JobError> {
    let (codes, mut found) = (desk.secrets.codes(), Vec::with_capacity(max));
    while found.len() < max {
        let position = from + found.len() as i64;
        let ranges = range::list(conn, job_id, position, 64).await?;
        let before = found.len();
        for one in ranges {
            for (day, no) in one.numbers_from(from + found.len() as i64)? {
                if found.len() == max {
                    return Ok(found);
                }
                found.push(codes.code_id(day, no)?);
            }
        }
        if found.len() == before {
            break;
        }
    }
    Ok(found)
}

fn month_of(code_id: &CodeId) -> Leaf {
    plan("coupon").leaf_i64(code_id.get())
}

impl Work for IssueUndo {
    type Slice = Slice;

    async fn prepare(
        &self,
        job: &Job,
        _: &mut FileReader,
        from: Checkpoint,
        rows_max: usize,
    ) -> Result<Slice, JobError> {
        let bad = |_| JobError::Inconsistent { table: "job", column: "options", key: job.job_id.to_string() };
        let options: Options = serde_json::from_value(job.options.clone()).map_err(bad)?;
        let (code_ids, closed) = {
            let mut conn = self.desk.office.get().await?;
            let code_ids = code_ids(&self.desk, &mut conn, options.of, from.bytes, rows_max).await?;
            let months: BTreeSet<Leaf> = code_ids.iter().map(month_of).collect();
            // One that is fenced between this and the write refuses the slice, which is made ready again.
            let closed = partition::closed(&mut conn, &months).await?;
            (code_ids, closed)
        };
        let count = code_ids.len() as i64;
        let end = Checkpoint { bytes: from.bytes + count, lines: from.lines + count, rows: from.rows + count };
        let is_last = end.bytes >= job.bytes || count == 0;
        let end = if is_last { Checkpoint { bytes: job.bytes, ..end } } else { end };
        let event_id = self.desk.event_id().await.map_err(of_desk)?;
        Ok(Slice { options, first: from.rows + 1, code_ids, closed, event_id, end: (end, is_last) })
    }

    fn end(slice: &Slice) -> (Checkpoint, bool) {
        slice.end
    }

    async fn write(
        &self,
        conn: &mut PgConnection,
        _: &Job,
        slice: &Slice,
        now: DateTime<Utc>,
    ) -> Result<Progress, JobError> {
        let mut world = World::new(now, self.desk.zone);
        let mut tx = Tx::of_job(conn);
        let living = slice.code_ids.iter().filter(|code_id| !slice.closed.contains_key(&month_of(code_id)));
        world.coupons = Box::pin(store::lock_coupons(&mut tx, living.copied().collect())).await?;
        let counts: BTreeSet<(MemberId, RuleId)> = world
            .coupons
            .values()
            .filter(|coupon| Coupon::clone(coupon).void(String::new()).is_ok())
            .filter_map(|coupon| Some((coupon.holder?, coupon.rule_id)))
            .collect();
        if !counts.is_empty() {
            world.member_rules = store::lock_member_rules(&mut tx, counts.into_iter().collect()).await?;
        }
        let reason = format!("undo of job {}", slice.options.of);
        let (mut progress, mut given): (Progress, BTreeMap<StockKey, i64>) = Default::default();
        for (ordinal, code_id) in (slice.first..).zip(&slice.code_ids) {
            let (undone, stocks) = decide::undo(&mut world, *code_id, &reason);
            let (code, detail) = match undone {
                Undone::Void => {
                    progress.ok += 1;
                    for key in stocks {
                        *given.entry(key).or_default() += 1;
                    }
                    continue;
                }
                Undone::WasVoid => {
                    progress.skipped += 1;
                    continue;
                }
                Undone::Used => ("coupon_already_redeemed", "a use of it stands"),
                Undone::Gone => ("coupon_not_found", "its month was retired"),
            };
            let (code, detail) = (code.to_owned(), detail.to_owned());
            progress.failures.push(Failure { ordinal, line: ordinal, column: None, code, detail });
        }
        let rows: Vec<(&Coupon, bool)> =
            world.changed.coupons.iter().map(|(id, changed)| (&world.coupons[id], *changed)).collect();
        if !rows.is_empty() {
            Box::pin(store::update_coupons(&mut tx, &rows)).await?;
            let counts = world.changed.member_rules.iter().map(|key| (*key, world.member_rules[key])).collect();
            store::update_member_rules(&mut tx, counts).await?;
            world.stocks = store::lock_stocks(&mut tx, given.keys().copied().collect()).await?;
            for (key, voided) in given {
                world.change_stock(key, |stock| stock.voided += voided);
            }
            let stocks = world.changed.stocks.iter().map(|key| (*key, world.stocks[key])).collect();
            store::update_stocks(&mut tx, stocks).await?;
            let body = json!({ "rule_id": slice.options.rule_id, "job_id": slice.options.of, "count": progress.ok });
            let (event_id, subject) = (slice.event_id, slice.options.rule_id.get());
            let event = NewEvent { event_id, kind: EventKind::CouponsVoided, subject, body };
            event::store::insert(&mut tx, now, &[event]).await?;
        }
        Ok(progress)
    }

    async fn finish(&self, _: &mut PgConnection, _: &Job, _: &Slice, _: i64, _: DateTime<Utc>) -> Result<(), JobError> {
        Ok(())
    }
}
