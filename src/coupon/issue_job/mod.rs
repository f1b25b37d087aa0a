//! Coupons of a rule for many, as a job: for each row of a file of members, or so many without a holder.
//!
//! A file has a column that says who (`member_id`, `phone`, `email`, `username`, `card`, `external` as `system:id`,
//! `external:<system>`), and may have `referrer` and `count`. Each row is decided as a request to issue would be, all of its
//! coupons or none; what it is refused is named and does not hold up the others. A rule that is not active pauses the job,
//! and so does a day that has no partition.
//!
//! A slice is one transaction with the locks of [`super::bulk`]; the run of numbers that its codes are made of is written
//! with it ([`crate::job::range`]), so that the codes of a job can be listed and taken back, and a slice that was not
//! committed left nothing. An event tells of each slice.

pub mod codes;
pub mod http;
pub mod preview;
pub mod undo;

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    Coupon, State,
    bulk::{self, Bad, Holder, HolderColumn},
    decide::{Why, Wish, take_stock_of},
    desk::{Desk, DeskError},
    rule::{Rule, RuleState, RuleVersion},
    world::World,
};
use crate::{
    db::lane::Tx,
    event::{self, Kind as EventKind, NewEvent},
    id::{CodeId, Day, EventId, RuleId},
    job::{
        Checkpoint, Failure, Job, JobError,
        file::{FileReader, Raw, RawRows},
        range,
        runner::Work,
        store::Progress,
    },
    member::key::Region,
    problem::{Code, Refusal},
    secret::Holding,
};

/// Coupons of a row.
pub const ROW_COUPONS_MAX: i64 = 1000;

/// A slice of a count from an unlimited stock has so many times the rows of another: its coupons lock nothing until they are
/// written, so that a longer slice holds up nobody and has fewer commits to wait for.
const UNLIMITED_SLICES: usize = 5;

/// What a job is to do, as it keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub rule_id: RuleId,
    /// Of the file; none for a count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_on: Option<Day>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrer: Option<String>,
    /// The job that takes back what this one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<String>,
}

impl Options {
    /// # Errors
    /// `Inconsistent`.
    pub fn of(job: &Job) -> Result<Self, JobError> {
        let bad = |_| JobError::Inconsistent { table: "job", column: "options", key: job.job_id.to_string() };
        serde_json::from_value(job.options.clone()).map_err(bad)
    }
}

/// What a column is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    Holder(HolderColumn),
    Referrer,
    Count,
}

/// The columns of a file.
///
/// # Errors
/// `file_invalid`: one that is not known or comes twice, none or several that say who.
pub fn columns(names: &[String]) -> Result<Vec<Option<Column>>, Refusal> {
    let columns = bulk::columns(names, |name| match name {
        "referrer" => Some(Column::Referrer),
        "count" => Some(Column::Count),
        other => HolderColumn::parse(other).map(Column::Holder),
    })?;
    let holders = columns.iter().flatten().filter(|column| matches!(column, Column::Holder(_))).count();
    if holders != 1 {
        return Err(Refusal::new(Code::FileInvalid).detail(
            "one column must say who: member_id, phone, email, username, card, external or external:<system>",
        ));
    }
    Ok(columns)
}

/// A row of a file; or coupons of a count, from `ordinal` on, each of which counts as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub ordinal: i64,
    pub line: i64,
    pub holder: Option<Holder>,
    pub count: i64,
    pub referrer: Option<String>,
}

impl Row {
    /// Rows that it is in what is told of the job.
    fn counts_as(&self) -> i64 {
        if self.holder.is_none() { self.count } else { 1 }
    }

    /// The coupons of a count one by one.
    fn apart(&self) -> impl Iterator<Item = Self> {
        let one = |at| Self { ordinal: self.ordinal + at, line: self.line + at, count: 1, ..self.clone() };
        (0..self.count).map(one)
    }
}

/// Issues coupons. Cheap to clone.
#[derive(Clone)]
pub struct IssueJob {
    pub desk: Desk,
    /// Where phone numbers without a country code belong.
    pub region: Region,
}

/// Rows made ready.
pub struct Slice {
    rule_id: RuleId,
    rows: Vec<Row>,
    failures: Vec<Failure>,
    day: Day,
    issued_at: Option<DateTime<Utc>>,
    first_no: i64,
    /// For the coupons of all rows; those of refused rows go to rows after them, and what is left over is a gap.
    code_ids: Vec<CodeId>,
    /// What stands against all rows, and against `alike` coupons of a count after them.
    refusal: Option<Refusal>,
    alike: i64,
    event_id: EventId,
    end: (Checkpoint, bool),
    holding: Holding,
}

impl Slice {
    /// The rows that are decided each by itself. Coupons of a count are all given or all refused, unless the rule has a stock
    /// as it is written: that may do for some of them.
    fn rows_under(&self, version: &RuleVersion) -> Cow<'_, [Row]> {
        match self.rows.as_slice() {
            [row] if row.holder.is_none() && !version.stock.is_unlimited() => row.apart().collect(),
            rows => Cow::Borrowed(rows),
        }
    }
}

impl IssueJob {
    /// # Errors
    /// What is wrong with the row.
    fn row(&self, columns: &[Option<Column>], raw: Raw<'_>) -> Result<Row, Bad> {
        let values = bulk::values(raw, columns.len())?;
        let mut row = Row { ordinal: raw.ordinal, line: raw.line, holder: None, count: 1, referrer: None };
        for (at, (value, column)) in values.into_iter().zip(columns).enumerate() {
            let (Some(value), Some(column)) = (value, column) else { continue };
            let invalid = |code, detail: String| (Some(at), code, detail.into());
            match column {
                Column::Holder(column) => {
                    let holder = column.read(self.region, &self.desk.secrets, &value);
                    row.holder = Some(holder.map_err(|why| invalid("identifier_invalid", why))?);
                }
                Column::Referrer => {
                    let referrer = super::http::Referrer::parse(value);
                    row.referrer =
                        Some(referrer.map_err(|bad| invalid("value_invalid", bad.to_string()))?.into_string());
                }
                Column::Count => {
                    let count = value.parse().ok().filter(|count| (1..=ROW_COUPONS_MAX).contains(count));
                    row.count = count.ok_or_else(|| {
                        invalid("value_invalid", format!("must be a number of 1 to {ROW_COUPONS_MAX}"))
                    })?;
                }
            }
        }
        if row.holder.is_none() {
            return Err((None, "identifier_missing", "the row does not say who".into()));
        }
        Ok(row)
    }

    /// Reads and checks rows.
    pub(super) fn read(&self, names: &[String], raw: &RawRows) -> Result<(Vec<Row>, Vec<Failure>), Refusal> {
        let columns = columns(names)?;
        let (mut rows, mut failures) = (Vec::with_capacity(raw.len()), Vec::new());
        for one in raw.iter() {
            match self.row(&columns, one) {
                Ok(row) => rows.push(row),
                Err(bad) => failures.push(bulk::failure(one.ordinal, one.line, names, bad)),
            }
        }
        Ok((rows, failures))
    }

    /// The next rows of a job: of its file, or of its count.
    async fn next_rows(
        &self,
        job: &Job,
        options: &Options,
        file: &mut FileReader,
        from: Checkpoint,
        rows_max: usize,
    ) -> Result<(Vec<Row>, Vec<Failure>, (Checkpoint, bool)), JobError> {
        if options.count.is_some() {
            let count = (job.bytes - from.bytes).min(rows_max as i64);
            debug_assert!(count > 0, "a job of a count that has come to its end has ended");
            let end = Checkpoint { bytes: from.bytes + count, lines: from.lines + count, rows: from.rows + count };
            let (at, referrer) = (from.rows + 1, options.referrer.clone());
            let rows = vec![Row { ordinal: at, line: at, holder: None, count, referrer }];
            return Ok((rows, Vec::new(), (end, end.bytes >= job.bytes)));
        }
        let mut rows_max = rows_max;
        loop {
            let raw = file.read(from, rows_max, b',', true).await?;
            let (import, names, end) = (self.clone(), options.columns.clone(), (raw.end, raw.is_last));
            let read = tokio::task::spawn_blocking(move || import.read(&names, &raw));
            let (rows, failures) = read.await.map_err(JobError::Panicked)??;
            // As many coupons as rows would be of one each; one row is always taken.
            let mut coupons = 0;
            let fits = rows.iter().take_while(|row| {
                coupons += row.count;
                coupons <= (rows_max as i64).max(ROW_COUPONS_MAX)
            });
            let fits = fits.count();
            if fits == rows.len() {
                return Ok((rows, failures, end));
            }
            rows_max = (rows[fits].ordinal - from.rows - 1).max(1) as usize;
        }
    }
}

impl IssueJob {
    async fn active_rule(&self, rule_id: RuleId) -> Result<Arc<Rule>, JobError> {
        let rule = self.desk.rule(rule_id).await.map_err(of_desk)?.ok_or(Code::RuleNotFound)?;
        if rule.state != RuleState::Active {
            return Err(Refusal::new(Code::RuleNotActive).with("rule_state", rule.state.name()).into());
        }
        Ok(rule)
    }

    /// What refuses the coupons of a day, whoever is to have them: their month was put away while the job ran, or of a count,
    /// which has nobody else to go on with, the stock is empty. A month that is fenced between this and the write refuses
    /// the slice, which is then made ready again.
    ///
    /// # Errors
    /// `issue_day_unavailable`, which the job waits for: upkeep makes the partition.
    async fn stands_against(&self, rule: &Arc<Rule>, day: Day, is_count: bool) -> Result<Option<Refusal>, JobError> {
        match self.desk.check_issue_day(day).await {
            Ok(()) => {}
            Err(DeskError::Refused(refusal)) if refusal.code == Code::MonthRetired => return Ok(Some(refusal)),
            Err(error) => return Err(of_desk(error)),
        }
        if !is_count || rule.current.stock.is_unlimited() {
            return Ok(None);
        }
        let mut world = World::new(self.desk.clock.now(), self.desk.zone);
        let wish = Wish { rule: Arc::clone(rule), day, member_id: None, count: 1, why: Why::Issue };
        bulk::look_at_stock(&mut *self.desk.office.get().await?, &mut world, &[&wish]).await?;
        Ok(take_stock_of(&mut world, &wish).err())
    }
}

impl Work for IssueJob {
    type Slice = Slice;

    async fn prepare(
        &self,
        job: &Job,
        file: &mut FileReader,
        from: Checkpoint,
        rows_max: usize,
    ) -> Result<Slice, JobError> {
        let options = Options::of(job)?;
        let holding = self.desk.secrets.holding();
        let rule_id = options.rule_id;
        let rule = self.active_rule(rule_id).await?;
        let day = options.issued_on.unwrap_or_else(|| self.desk.zone.day_of(self.desk.clock.now()));
        let refusal = self.stands_against(&rule, day, options.count.is_some()).await?;
        let is_unlimited = options.count.is_some() && rule.current.stock.is_unlimited();
        let rows_max = if is_unlimited { rows_max * UNLIMITED_SLICES } else { rows_max };
        let (rows, failures, mut end) = Box::pin(self.next_rows(job, &options, file, from, rows_max)).await?;
        let (mut count, mut alike) = (rows.iter().map(|row| row.count).sum::<i64>() as usize, 0);
        if refusal.is_some() {
            count = 0;
            if options.count.is_some() {
                // What is left of a count fares alike, to its end.
                alike = job.bytes - end.0.bytes;
                let last = |at: i64| at + alike;
                end = (Checkpoint { bytes: job.bytes, lines: last(end.0.lines), rows: last(end.0.rows) }, true);
            }
        }
        let first_no = bulk::lease_serials(&self.desk.office, count).await?;
        let codes = self.desk.secrets.codes();
        let mint = move || codes.code_ids(day, first_no, count);
        let code_ids = tokio::task::spawn_blocking(mint).await.map_err(JobError::Panicked)??;
        let event_id = self.desk.event_id().await.map_err(of_desk)?;
        let issued_at = options.issued_on.map(|day| self.desk.zone.start_of(day));
        Ok(Slice {
            rule_id,
            rows,
            failures,
            day,
            issued_at,
            first_no,
            code_ids,
            refusal,
            alike,
            event_id,
            end,
            holding,
        })
    }

    fn end(slice: &Slice) -> (Checkpoint, bool) {
        slice.end
    }

    async fn write(
        &self,
        conn: &mut PgConnection,
        job: &Job,
        slice: &Slice,
        now: DateTime<Utc>,
    ) -> Result<Progress, JobError> {
        // Holders are looked for by keys that must be those of now.
        if self.desk.secrets.holding() != slice.holding {
            return Err(JobError::KeysChanged);
        }
        // The rule as it is now: it may have been paused, or its limits changed, since the slice was read.
        let rule = self.active_rule(slice.rule_id).await?;
        let mut progress = Progress { failures: slice.failures.clone(), ..Progress::default() };
        let issued_at = slice.issued_at.unwrap_or(now);
        let version = &rule.current;
        let (valid_from, valid_until) = version.window(issued_at, self.desk.zone)?;
        let holders = slice.rows.iter().filter_map(|row| row.holder.as_ref());
        let owners = Box::pin(bulk::owners(conn, holders)).await?;
        let all = slice.rows_under(version);
        let (mut wishes, mut rows) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
        for row in &*all {
            let member_id = row.holder.as_ref().and_then(|holder| holder.of(&owners));
            if row.holder.is_some() && member_id.is_none() {
                let refusal = Refusal::new(Code::MemberNotFound).detail("nobody has this identifier");
                progress.failures.push(bulk::refused(row.ordinal, row.line, &refusal));
                continue;
            }
            if let Some(refusal) = &slice.refusal {
                refuse(&mut progress, row, refusal);
                continue;
            }
            let (rule, day) = (Arc::clone(&rule), slice.day);
            wishes.push(Wish { rule, day, member_id, count: row.count, why: Why::Issue });
            rows.push(row);
        }
        progress.failed_alike += slice.alike;
        let mut world = World::new(now, self.desk.zone);
        let mut tx = Tx::of_job(conn);
        Box::pin(bulk::load(&mut tx, &mut world, &wishes)).await?;
        let coupons_of = |at: usize, counted: i16, coupons: &mut Vec<Coupon>| {
            for _ in 0..wishes[at].count {
                coupons.push(Coupon {
                    code_id: slice.code_ids[coupons.len()],
                    rule_id: version.rule_id,
                    rule_version: version.version,
                    holder: wishes[at].member_id,
                    issued_at,
                    valid_from,
                    valid_until,
                    state: State::Issued { lock: None },
                    uses: 0,
                    cycles: 0,
                    counted,
                    last_use: None,
                    issue_store_no: None,
                    referrer: rows[at].referrer.clone(),
                    legacy_key: None,
                    void_reason: None,
                });
            }
        };
        let (verdicts, coupons) = Box::pin(bulk::place(&mut tx, &mut world, &wishes, coupons_of)).await?;
        for (row, verdict) in rows.iter().zip(verdicts) {
            match verdict {
                Ok(()) => progress.ok += row.counts_as(),
                Err(refusal) => refuse(&mut progress, row, &refusal),
            }
        }
        progress.failures.sort_by_key(|failure| failure.ordinal);
        if !coupons.is_empty() {
            range::insert(tx.conn().await?, job.job_id, slice.first_no, coupons.len(), Some(slice.day)).await?;
            let body = json!({
                "rule_id": version.rule_id,
                "rule_version": version.version,
                "job_id": job.job_id,
                "count": coupons.len(),
            });
            let (event_id, subject) = (slice.event_id, version.rule_id.get());
            let event = NewEvent { event_id, kind: EventKind::CouponsIssued, subject, body };
            event::store::insert(&mut tx, now, &[event]).await?;
        }
        Ok(progress)
    }

    async fn finish(&self, _: &mut PgConnection, _: &Job, _: &Slice, _: i64, _: DateTime<Utc>) -> Result<(), JobError> {
        Ok(())
    }
}

/// Notes that a row is refused. Of a count one coupon stands for those after it in the slice.
fn refuse(progress: &mut Progress, row: &Row, refusal: &Refusal) {
    if row.holder.is_none() && !progress.failures.is_empty() {
        progress.failed_alike += row.counts_as();
    } else {
        progress.failures.push(bulk::refused(row.ordinal, row.line, refusal));
        progress.failed_alike += row.counts_as() - 1;
    }
}

/// What the desk could not say.
pub(super) fn of_desk(error: super::desk::DeskError) -> JobError {
    match error {
        DeskError::Refused(refusal) => JobError::Refused(refusal),
        DeskError::Office(error) => JobError::Database(error),
        DeskError::Numbers(error) => JobError::Numbers(error),
        DeskError::Id(error) => JobError::Id(error),
        DeskError::Lane(_) => JobError::Database(crate::db::pool::Error::Busy),
    }
}
