//! The SQL of jobs. Lock order: `job`, then what the job writes in the order of its own domain, then `job_failure`.
//!
//! Leases go by the database's clock, which all nodes share; everything else by the node's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, postgres::types::PgInterval};
use uuid::Uuid;

use super::{Act, Checkpoint, FILE_DAYS, Failure, Job, JobError, Kind, State, UPLOAD_STALE};
use crate::{id::JobId, problem::Code};

/// The columns of a [`JobRow`].
macro_rules! columns {
    () => {
        "job_id, created_at, updated_at, started_at, finished_at, digest, bytes, bytes_done, lines_done, rows_ok, \
         rows_skipped, rows_failed, version, kind, state, attempts, created_by, number, file_name, error, \
         options::text as options, preview::text as preview"
    };
}

#[derive(FromRow)]
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

/// Makes a job whose file is on the way.
pub async fn insert_job(conn: &mut PgConnection, new: &NewJob, now: DateTime<Utc>) -> Result<(), JobError> {
    sqlx::query(
        "insert into job (job_id, created_at, updated_at, kind, state, created_by, file_name, options)
         values ($1, $2, $2, $3, $4, $5, $6, $7::text::jsonb)",
    )
    .bind(new.job_id)
    .bind(now)
    .bind(new.kind.number())
    .bind(State::Uploading.number())
    .bind(&new.created_by)
    .bind(&new.file_name)
    .bind(new.options.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds a piece to the file of a job that is being uploaded; false if it is not any more.
pub async fn insert_chunk(
    conn: &mut PgConnection,
    job_id: JobId,
    no: i32,
    bytes: i64,
    sealed: &[u8],
    now: DateTime<Utc>,
) -> Result<bool, JobError> {
    let added = sqlx::query(
        "with uploading as (
             update job set bytes = bytes + $3, updated_at = $5, version = version + 1
             where job_id = $1 and state = $6
             returning job_id
         )
         insert into job_chunk (job_id, no, sealed) select job_id, $2, $4 from uploading",
    )
    .bind(job_id)
    .bind(no)
    .bind(bytes)
    .bind(sealed)
    .bind(now)
    .bind(State::Uploading.number())
    .execute(conn)
    .await?;
    Ok(added.rows_affected() == 1)
}

/// What an upload ends with.
#[derive(Debug, Clone)]
pub struct Uploaded {
    pub digest: Uuid,
    pub number: Option<String>,
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
    let row: Result<Option<JobRow>, sqlx::Error> = sqlx::query_as(concat!(
        "update job
         set state = $2, digest = $3, number = $4, options = $5::text::jsonb, preview = $6::text::jsonb,
             updated_at = $7, started_at = case when $2 = 4 then $7 end, version = version + 1
         where job_id = $1 and state = 1
         returning ",
        columns!()
    ))
    .bind(job_id)
    .bind(uploaded.state.number())
    .bind(uploaded.digest)
    .bind(&uploaded.number)
    .bind(uploaded.options.to_string())
    .bind(uploaded.preview.to_string())
    .bind(now)
    .fetch_optional(conn)
    .await;
    match row {
        Ok(row) => row.map(Job::try_from).transpose(),
        Err(error) if crate::db::sqlstate(&error).as_deref() == Some("23505") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The job that a caller made under a number.
pub async fn find_by_number(
    conn: &mut PgConnection,
    kind: Kind,
    created_by: &str,
    number: &str,
) -> Result<Option<Job>, JobError> {
    let row: Option<JobRow> =
        sqlx::query_as(concat!("select ", columns!(), " from job where created_by = $1 and kind = $2 and number = $3"))
            .bind(created_by)
            .bind(kind.number())
            .bind(number)
            .fetch_optional(conn)
            .await?;
    row.map(Job::try_from).transpose()
}

/// Deletes a job that has not begun, with its file.
pub async fn delete_uploading(conn: &mut PgConnection, job_id: JobId) -> Result<(), JobError> {
    sqlx::query("delete from job where job_id = $1 and state = 1").bind(job_id).execute(conn).await?;
    Ok(())
}

/// # Errors
/// `job_not_found`, also when it is of another kind.
pub async fn get_job(conn: &mut PgConnection, kind: Kind, job_id: JobId) -> Result<Job, JobError> {
    let row: Option<JobRow> =
        sqlx::query_as(concat!("select ", columns!(), " from job where job_id = $1 and kind = $2"))
            .bind(job_id)
            .bind(kind.number())
            .fetch_optional(conn)
            .await?;
    row.ok_or(Code::JobNotFound)?.try_into()
}

/// Up to `rows_max` jobs of a kind, the newest first, from before `before`.
pub async fn list_jobs(
    conn: &mut PgConnection,
    kind: Kind,
    state: Option<State>,
    before: Option<JobId>,
    rows_max: i64,
) -> Result<Vec<Job>, JobError> {
    let rows: Vec<JobRow> = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from job
         where kind = $1 and ($2::smallint is null or state = $2) and ($3::bigint is null or job_id < $3)
         order by job_id desc
         limit $4"
    ))
    .bind(kind.number())
    .bind(state.map(State::number))
    .bind(before)
    .bind(rows_max)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Job::try_from).collect()
}

/// Failures of a job in the order of its rows, from after the row `after`.
pub async fn list_failures(
    conn: &mut PgConnection,
    job_id: JobId,
    after: i64,
    rows_max: i64,
) -> Result<Vec<Failure>, JobError> {
    #[derive(FromRow)]
    struct FailureRow {
        ordinal: i64,
        line: i64,
        column_name: Option<String>,
        code: String,
        detail: String,
    }
    let rows: Vec<FailureRow> = sqlx::query_as(
        "select ordinal, line, column_name, code, detail
         from job_failure
         where job_id = $1 and ordinal > $2
         order by ordinal
         limit $3",
    )
    .bind(job_id)
    .bind(after)
    .bind(rows_max)
    .fetch_all(conn)
    .await?;
    let failure = |row: FailureRow| Failure {
        ordinal: row.ordinal,
        line: row.line,
        column: row.column_name,
        code: row.code,
        detail: row.detail,
    };
    Ok(rows.into_iter().map(failure).collect())
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
    let ends = act.to().has_ended();
    let row: Option<JobRow> = sqlx::query_as(concat!(
        "update job
         set state = $3, updated_at = $5, version = version + 1,
             started_at = case when $3 = 4 then coalesce(started_at, $5) else started_at end,
             finished_at = case when $6 then $5 end,
             -- Whoever works on it finds at its next slice that it does not any more; who resumes it need not wait.
             lease_holder = null, lease_until = null
         where job_id = $1 and kind = $2 and state = any($4)
         returning ",
        columns!()
    ))
    .bind(job_id)
    .bind(kind.number())
    .bind(act.to().number())
    .bind(numbers(act.from()))
    .bind(now)
    .bind(ends)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(row) = row {
        return row.try_into();
    }
    let job = get_job(conn, kind, job_id).await?;
    if job.state == act.to() {
        return Ok(job);
    }
    Err(crate::problem::Refusal::new(Code::JobStateForbidden)
        .detail(format!("the job is {}", job.state.name()))
        .with("state", job.state.name())
        .into())
}

/// A sealed piece of a file.
pub async fn find_chunk(conn: &mut PgConnection, job_id: JobId, no: i32) -> Result<Option<Vec<u8>>, JobError> {
    let sealed = sqlx::query_scalar("select sealed from job_chunk where job_id = $1 and no = $2")
        .bind(job_id)
        .bind(no)
        .fetch_optional(conn)
        .await?;
    Ok(sealed)
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
    let row: Option<JobRow> = sqlx::query_as(concat!(
        "update job
         set lease_holder = $1, lease_until = clock_timestamp() + $2, turn_at = $3, attempts = attempts + 1
         where job_id = (
             select job_id from job
             where state = 4 and (lease_until is null or lease_until < clock_timestamp())
             order by turn_at nulls first, bytes, job_id
             limit 1
             for update skip locked
         )
         returning ",
        columns!()
    ))
    .bind(holder)
    .bind(interval(lease))
    .bind(now)
    .fetch_optional(conn)
    .await?;
    row.map(Job::try_from).transpose()
}

/// Whether another job waits for a turn.
pub async fn anybody_waits(conn: &mut PgConnection) -> Result<bool, JobError> {
    let waits = sqlx::query_scalar(
        "select exists (
             select 1 from job where state = 4 and (lease_until is null or lease_until < clock_timestamp())
         )",
    )
    .fetch_one(conn)
    .await?;
    Ok(waits)
}

/// Gives a job back, so that another node may take it up at once, or after `rest`.
pub async fn release_job(
    conn: &mut PgConnection,
    job_id: JobId,
    holder: Uuid,
    rest: Option<Duration>,
) -> Result<(), JobError> {
    sqlx::query(
        "update job set lease_holder = null, lease_until = clock_timestamp() + $3
         where job_id = $1 and lease_holder = $2",
    )
    .bind(job_id)
    .bind(holder)
    .bind(rest.map(interval))
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks a job for a slice, if it still is as the slice was prepared for; else the slice must not be written.
pub async fn lock_for_slice(
    conn: &mut PgConnection,
    job_id: JobId,
    holder: Uuid,
    from: Checkpoint,
) -> Result<bool, JobError> {
    let locked: Option<(JobId,)> = sqlx::query_as(
        "select job_id from job
         where job_id = $1 and lease_holder = $2 and state = 4 and bytes_done = $3
         for update",
    )
    .bind(job_id)
    .bind(holder)
    .bind(from.bytes)
    .fetch_optional(conn)
    .await?;
    Ok(locked.is_some())
}

/// What a slice has done.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub ok: i64,
    pub skipped: i64,
    pub failures: Vec<Failure>,
}

/// Moves the checkpoint of a locked job on and names what failed.
pub async fn update_progress(
    conn: &mut PgConnection,
    job_id: JobId,
    (end, is_last): (Checkpoint, bool),
    progress: &Progress,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<(), JobError> {
    let failures = &progress.failures;
    if !failures.is_empty() {
        sqlx::query(
            "insert into job_failure (job_id, ordinal, line, column_name, code, detail)
             select $1, t.ordinal, t.line, t.column_name, t.code, t.detail
             from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[])
                 as t (ordinal, line, column_name, code, detail)",
        )
        .bind(job_id)
        .bind(failures.iter().map(|one| one.ordinal).collect::<Vec<_>>())
        .bind(failures.iter().map(|one| one.line).collect::<Vec<_>>())
        .bind(failures.iter().map(|one| one.column.clone()).collect::<Vec<_>>())
        .bind(failures.iter().map(|one| one.code.clone()).collect::<Vec<_>>())
        .bind(failures.iter().map(|one| one.detail.clone()).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
    }
    let updated = sqlx::query(
        "update job
         set bytes_done = $2, lines_done = $3, rows_ok = rows_ok + $4, rows_skipped = rows_skipped + $5,
             rows_failed = rows_failed + $6, state = case when $7 then 8 else state end,
             finished_at = case when $7 then $9 end, lease_until = clock_timestamp() + $8, updated_at = $9,
             attempts = 0, version = version + 1
         where job_id = $1",
    )
    .bind(job_id)
    .bind(end.bytes)
    .bind(end.lines)
    .bind(progress.ok)
    .bind(progress.skipped)
    .bind(failures.len() as i64)
    .bind(is_last)
    .bind(interval(lease))
    .bind(now)
    .execute(conn)
    .await?;
    if updated.rows_affected() == 1 {
        return Ok(());
    }
    Err(JobError::Inconsistent { table: "job", column: "job_id", key: job_id.to_string() })
}

/// Ends a job that cannot go on.
pub async fn fail_job(conn: &mut PgConnection, job_id: JobId, error: &str, now: DateTime<Utc>) -> Result<(), JobError> {
    sqlx::query(
        "update job set state = 9, error = $2, finished_at = $3, updated_at = $3, version = version + 1
         where job_id = $1 and state = 4",
    )
    .bind(job_id)
    .bind(error)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Pieces deleted in one statement.
const PURGE_CHUNKS: i64 = 64;

/// Deletes files that are as old as they may get, and uploads that broke off. Gives the pieces deleted.
pub async fn purge(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<u64, JobError> {
    let file_end = now - chrono::TimeDelta::days(FILE_DAYS);
    sqlx::query("delete from job where state = 1 and updated_at < $1")
        .bind(now - UPLOAD_STALE)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "update job set state = 9, error = 'file_expired', finished_at = $2, updated_at = $2, version = version + 1
         where state = any($3) and created_at < $1",
    )
    .bind(file_end)
    .bind(now)
    .bind(numbers(&[State::Ready, State::Running, State::Paused]))
    .execute(&mut *conn)
    .await?;
    let mut deleted = 0;
    loop {
        let rows = sqlx::query(
            "delete from job_chunk c
             using (
                 select job_id, no from job_chunk join job using (job_id) where created_at < $1 limit $2
             ) old
             where c.job_id = old.job_id and c.no = old.no",
        )
        .bind(file_end)
        .bind(PURGE_CHUNKS)
        .execute(&mut *conn)
        .await?
        .rows_affected();
        if rows == 0 {
            return Ok(deleted);
        }
        deleted += rows;
    }
}
