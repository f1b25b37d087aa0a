//! The SQL of jobs. Lock order: `job_caller`, `job`, then what the job writes in the order of its own domain, then
//! `job_failure`.
//!
//! Leases go by the database's clock, which all nodes share; everything else by the node's.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, postgres::types::PgInterval};
use uuid::Uuid;

use super::{Act, Checkpoint, FAILURES_MAX, FILE_DAYS, Failure, Job, JobError, Kind, State, UPLOAD_STALE};
use crate::{
    id::{JobId, RuleId},
    problem::{Code, Refusal},
};

struct JobRow {
    job_id: JobId,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    digest: Option<Uuid>,
    bytes: i64,
    bytes_done: i64,
    lines_done: i64,
    rows_ok: i64,
    rows_skipped: i64,
    rows_failed: i64,
    version: i32,
    kind: i16,
    state: i16,
    attempts: i16,
    created_by: String,
    number: Option<String>,
    file_name: Option<String>,
    error: Option<String>,
    options: String,
    preview: Option<String>,
}

impl TryFrom<JobRow> for Job {
    type Error = JobError;

    fn try_from(row: JobRow) -> Result<Self, JobError> {
        let bad = |column| JobError::Inconsistent { table: "job", column, key: row.job_id.to_string() };
        Ok(Job {
            job_id: row.job_id,
            kind: Kind::from_number(row.kind).ok_or_else(|| bad("kind"))?,
            state: State::from_number(row.state).ok_or_else(|| bad("state"))?,
            options: serde_json::from_str(&row.options).map_err(|_| bad("options"))?,
            preview: row.preview.as_deref().map(serde_json::from_str).transpose().map_err(|_| bad("preview"))?,
            created_by: row.created_by,
            number: row.number,
            digest: row.digest,
            file_name: row.file_name,
            bytes: row.bytes,
            bytes_done: row.bytes_done,
            lines_done: row.lines_done,
            rows_ok: row.rows_ok,
            rows_skipped: row.rows_skipped,
            rows_failed: row.rows_failed,
            attempts: row.attempts,
            error: row.error,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    }
}

fn numbers(states: &[State]) -> Vec<i16> {
    states.iter().map(|state| state.number()).collect()
}

/// A job to be.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub job_id: JobId,
    pub kind: Kind,
    pub created_by: String,
    pub file_name: Option<String>,
    pub options: serde_json::Value,
}

/// Locks what a caller's jobs are counted under: before any job, in the lock order.
pub async fn lock_caller(conn: &mut PgConnection, caller: &str, now: DateTime<Utc>) -> Result<(), JobError> {
    sqlx::query_file!("sql/queries/job/lock_caller.sql", caller, now).execute(conn).await?;
    Ok(())
}

/// Makes a job whose file is on the way. Wants a transaction: the caller's open jobs are counted under a lock that it
/// holds to its end, so that of two that ask at once the second sees the first.
///
/// # Errors
/// `job_limit_reached` when `open_max` jobs of the caller have not ended.
pub async fn insert_job(
    conn: &mut PgConnection,
    new: &NewJob,
    open_max: i64,
    now: DateTime<Utc>,
) -> Result<(), JobError> {
    lock_caller(&mut *conn, &new.created_by, now).await?;
    // Another statement, and so another snapshot, than the one that waited.
    let insert = sqlx::query_file!(
        "sql/queries/job/insert.sql",
        new.job_id.get(),
        now,
        new.kind.number(),
        State::Uploading.number(),
        new.created_by,
        new.file_name,
        new.options.to_string(),
        open_max,
    );
    if insert.execute(conn).await?.rows_affected() == 1 {
        return Ok(());
    }
    Err(Refusal::new(Code::JobLimitReached).with("limit", open_max).into())
}

/// Makes room for a piece in a job that is being uploaded; false if it is not any more.
pub async fn grow_uploading(
    conn: &mut PgConnection,
    job_id: JobId,
    bytes: i64,
    now: DateTime<Utc>,
) -> Result<bool, JobError> {
    let update = sqlx::query_file!("sql/queries/job/update_uploading.sql", job_id.get(), bytes, now);
    Ok(update.execute(conn).await?.rows_affected() == 1)
}

/// Adds a piece to the file of a job. It was sealed after [`grow_uploading`] in the same transaction.
pub async fn insert_chunk(conn: &mut PgConnection, job_id: JobId, no: i32, sealed: &[u8]) -> Result<(), JobError> {
    sqlx::query_file!("sql/queries/job_chunk/insert.sql", job_id.get(), no, sealed).execute(conn).await?;
    Ok(())
}

/// What an upload ends with.
#[derive(Debug, Clone)]
pub struct Uploaded {
    pub digest: Uuid,
    /// The caller's number on the days on which it may stand; the last is written.
    pub numbers: Vec<String>,
    pub options: serde_json::Value,
    pub preview: serde_json::Value,
    pub state: State,
}

/// Ends an upload. None: the caller's number is another job's, or this one was cancelled meanwhile.
pub async fn update_uploaded(
    conn: &mut PgConnection,
    job_id: JobId,
    uploaded: &Uploaded,
    now: DateTime<Utc>,
) -> Result<Option<Job>, JobError> {
    let update = sqlx::query_file_as!(
        JobRow,
        "sql/queries/job/update_uploaded.sql",
        job_id.get(),
        uploaded.state.number(),
        uploaded.digest,
        uploaded.numbers.last(),
        uploaded.options.to_string(),
        uploaded.preview.to_string(),
        now,
    );
    match update.fetch_optional(conn).await {
        Ok(row) => row.map(Job::try_from).transpose(),
        Err(error) if crate::db::sqlstate(&error).as_deref() == Some("23505") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The job that a caller made under one of these numbers.
pub async fn find_by_number(
    conn: &mut PgConnection,
    kind: Kind,
    created_by: &str,
    numbers: &[String],
) -> Result<Option<Job>, JobError> {
    let find = sqlx::query_file_as!(JobRow, "sql/queries/job/find_by_number.sql", created_by, kind.number(), numbers);
    find.fetch_optional(conn).await?.map(Job::try_from).transpose()
}

/// Deletes a job that has not begun, with its file. Nobody else uploads it.
pub async fn delete_uploading(conn: &mut PgConnection, job_id: JobId) -> Result<(), JobError> {
    loop {
        let delete = sqlx::query_file!("sql/queries/job_chunk/delete.sql", job_id.get(), PURGE_CHUNKS);
        if delete.execute(&mut *conn).await?.rows_affected() == 0 {
            break;
        }
    }
    sqlx::query_file!("sql/queries/job/delete_uploading.sql", job_id.get()).execute(conn).await?;
    Ok(())
}

/// # Errors
/// `job_not_found`, also when it is of another kind.
pub async fn get_job(conn: &mut PgConnection, kind: Kind, job_id: JobId) -> Result<Job, JobError> {
    let find = sqlx::query_file_as!(JobRow, "sql/queries/job/find.sql", job_id.get(), kind.number());
    find.fetch_optional(conn).await?.ok_or(Code::JobNotFound)?.try_into()
}

/// Up to `rows_max` jobs of some kinds, and if one is given of a rule, the newest first, from before `before`.
pub async fn list_jobs(
    conn: &mut PgConnection,
    kinds: &[Kind],
    rule_id: Option<RuleId>,
    state: Option<State>,
    before: Option<JobId>,
    rows_max: i64,
) -> Result<Vec<Job>, JobError> {
    let kinds: Vec<i16> = kinds.iter().map(|kind| kind.number()).collect();
    let (state, before) = (state.map(State::number), before.map(JobId::get));
    let rows = match rule_id {
        None => {
            let list = sqlx::query_file_as!(JobRow, "sql/queries/job/list.sql", &kinds, state, before, rows_max);
            list.fetch_all(conn).await?
        }
        Some(rule_id) => {
            let rule_id = rule_id.to_string();
            let file = sqlx::query_file_as!(
                JobRow,
                "sql/queries/job/list_of_rule.sql",
                &kinds,
                state,
                before,
                rows_max,
                rule_id
            );
            file.fetch_all(conn).await?
        }
    };
    rows.into_iter().map(Job::try_from).collect()
}

/// Failures of a job in the order of its rows, from after the row `after`.
pub async fn list_failures(
    conn: &mut PgConnection,
    job_id: JobId,
    after: i64,
    rows_max: i64,
) -> Result<Vec<Failure>, JobError> {
    let list = sqlx::query_file_as!(Failure, "sql/queries/job_failure/list.sql", job_id.get(), after, rows_max);
    Ok(list.fetch_all(conn).await?)
}

/// Does what a caller asked for. A job that is where the act leads stays as it is.
///
/// # Errors
/// `job_not_found`, `job_state_forbidden`.
pub async fn update_state(
    conn: &mut PgConnection,
    kind: Kind,
    job_id: JobId,
    act: Act,
    now: DateTime<Utc>,
) -> Result<Job, JobError> {
    let update = sqlx::query_file_as!(
        JobRow,
        "sql/queries/job/update_state.sql",
        job_id.get(),
        kind.number(),
        act.to().number(),
        &numbers(act.from()),
        now,
        act.to().has_ended(),
        act == Act::Resume,
    );
    if let Some(row) = update.fetch_optional(&mut *conn).await? {
        return row.try_into();
    }
    let job = get_job(conn, kind, job_id).await?;
    if job.state == act.to() {
        return Ok(job);
    }
    Err(Refusal::new(Code::JobStateForbidden)
        .detail(format!("the job is {}", job.state.name()))
        .with("state", job.state.name())
        .into())
}

/// A sealed piece of a file.
pub async fn find_chunk(conn: &mut PgConnection, job_id: JobId, no: i32) -> Result<Option<Vec<u8>>, JobError> {
    Ok(sqlx::query_file_scalar!("sql/queries/job_chunk/find.sql", job_id.get(), no).fetch_optional(conn).await?)
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}

/// Takes up a job that runs and that nobody holds: the one that waited longest for its turn, and of new ones the smallest.
/// One that a slice under way has locked is passed over, whatever its lease says.
pub async fn lease_job(
    conn: &mut PgConnection,
    holder: Uuid,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Option<Job>, JobError> {
    let lease = sqlx::query_file_as!(JobRow, "sql/queries/job/lease.sql", holder, interval(lease), now);
    lease.fetch_optional(conn).await?.map(Job::try_from).transpose()
}

/// Whether another job waits for a turn.
pub async fn anybody_waits(conn: &mut PgConnection) -> Result<bool, JobError> {
    Ok(sqlx::query_file_scalar!("sql/queries/job/anybody_waits.sql").fetch_one(conn).await?)
}

/// Gives a job back, so that another node may take it up at once, or after `rest`.
pub async fn release_job(
    conn: &mut PgConnection,
    job_id: JobId,
    holder: Uuid,
    rest: Option<Duration>,
) -> Result<(), JobError> {
    let release = sqlx::query_file!(
        "sql/queries/job/release.sql",
        job_id.get(),
        holder,
        rest.map(interval) as Option<PgInterval>
    );
    release.execute(conn).await?;
    Ok(())
}

/// Locks a job for a slice, if it still is as the slice was prepared for; else the slice must not be written. Gives the
/// rows that have failed so far.
pub async fn lock_for_slice(
    conn: &mut PgConnection,
    job_id: JobId,
    holder: Uuid,
    from: Checkpoint,
) -> Result<Option<i64>, JobError> {
    let lock = sqlx::query_file_scalar!("sql/queries/job/lock_for_slice.sql", job_id.get(), holder, from.bytes);
    Ok(lock.fetch_optional(conn).await?)
}

/// What a slice has done.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub ok: i64,
    pub skipped: i64,
    pub failures: Vec<Failure>,
    /// Rows that failed without a failure of their own: those of a count are all alike.
    pub failed_alike: i64,
}

impl Progress {
    pub fn failed(&self) -> i64 {
        self.failures.len() as i64 + self.failed_alike
    }
}

/// Moves the checkpoint of a locked job, of which `failed` rows had failed, on and names what failed. Gives the rows that are ok by now.
pub async fn update_progress(
    conn: &mut PgConnection,
    job_id: JobId,
    (end, is_last): (Checkpoint, bool),
    (failed, progress): (i64, &Progress),
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<i64, JobError> {
    let room = usize::try_from(FAILURES_MAX - failed).unwrap_or(0).min(progress.failures.len());
    let failures = &progress.failures[..room];
    if !failures.is_empty() {
        let insert = sqlx::query_file!(
            "sql/queries/job_failure/insert.sql",
            job_id.get(),
            &failures.iter().map(|one| one.ordinal).collect::<Vec<_>>(),
            &failures.iter().map(|one| one.line).collect::<Vec<_>>(),
            &failures.iter().map(|one| one.column.clone()).collect::<Vec<_>>() as &[Option<String>],
            &failures.iter().map(|one| one.code.clone()).collect::<Vec<_>>(),
            &failures.iter().map(|one| one.detail.clone()).collect::<Vec<_>>(),
        );
        insert.execute(&mut *conn).await?;
    }
    let update = sqlx::query_file_scalar!(
        "sql/queries/job/update_progress.sql",
        job_id.get(),
        end.bytes,
        end.lines,
        progress.ok,
        progress.skipped,
        progress.failed(),
        is_last,
        interval(lease),
        now,
    );
    let missing = || JobError::Inconsistent { table: "job", column: "job_id", key: job_id.to_string() };
    update.fetch_optional(conn).await?.ok_or_else(missing)
}

/// Ends a job that cannot go on; false if it is not the holder's any more.
pub async fn fail_job(
    conn: &mut PgConnection,
    job_id: JobId,
    holder: Uuid,
    error: &str,
    now: DateTime<Utc>,
) -> Result<bool, JobError> {
    let fail = sqlx::query_file!("sql/queries/job/fail.sql", job_id.get(), error, now, holder);
    Ok(fail.execute(conn).await?.rows_affected() == 1)
}

/// Pauses a job that was refused something; false if it is not the holder's any more.
pub async fn pause_job(
    conn: &mut PgConnection,
    job_id: JobId,
    holder: Uuid,
    error: &str,
    now: DateTime<Utc>,
) -> Result<bool, JobError> {
    let pause = sqlx::query_file!("sql/queries/job/pause.sql", job_id.get(), error, now, holder);
    Ok(pause.execute(conn).await?.rows_affected() == 1)
}

/// Locks a job and reads it.
///
/// # Errors
/// `job_not_found`, also when it is of another kind.
pub async fn get_job_for_update(conn: &mut PgConnection, kind: Kind, job_id: JobId) -> Result<Job, JobError> {
    sqlx::query_file!("sql/queries/job/lock.sql", job_id.get()).fetch_optional(&mut *conn).await?;
    get_job(conn, kind, job_id).await
}

/// Notes on a job which other one takes back what it did, and ends it for good.
pub async fn update_undone(
    conn: &mut PgConnection,
    job_id: JobId,
    undone_by: JobId,
    now: DateTime<Utc>,
) -> Result<(), JobError> {
    let by = undone_by.to_string();
    sqlx::query_file!("sql/queries/job/update_undone.sql", job_id.get(), by, now).execute(conn).await?;
    Ok(())
}

/// Pieces deleted in one statement.
const PURGE_CHUNKS: i64 = 64;
/// Failures deleted in one statement.
const PURGE_FAILURES: i64 = 5_000;

/// Deletes files that are as old as they may get or broke off, and jobs that ended `retain` ago. Gives the pieces deleted.
pub async fn purge(conn: &mut PgConnection, retain: TimeDelta, now: DateTime<Utc>) -> Result<u64, JobError> {
    let file_end = now - TimeDelta::days(FILE_DAYS);
    sqlx::query_file!("sql/queries/job/break_stale.sql", now - UPLOAD_STALE, now).execute(&mut *conn).await?;
    let waiting = numbers(&[State::Ready, State::Running, State::Paused]);
    sqlx::query_file!("sql/queries/job/expire.sql", file_end, now, &waiting).execute(&mut *conn).await?;
    let mut deleted = 0;
    loop {
        let purge = sqlx::query_file!("sql/queries/job_chunk/purge.sql", file_end, PURGE_CHUNKS);
        let rows = purge.execute(&mut *conn).await?.rows_affected();
        if rows == 0 {
            break;
        }
        deleted += rows;
    }
    let job_end = now - retain;
    loop {
        let purge = sqlx::query_file!("sql/queries/job_failure/purge.sql", job_end, PURGE_FAILURES);
        if purge.execute(&mut *conn).await?.rows_affected() == 0 {
            break;
        }
    }
    sqlx::query_file!("sql/queries/job/delete_ended.sql", job_end).execute(&mut *conn).await?;
    Ok(deleted)
}
