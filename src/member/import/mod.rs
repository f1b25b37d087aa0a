//! Members from a CSV file, as a job.
//!
//! The first line names the columns ([`mod@column`] lists them), unless the caller names them. Each row is a member with at
//! least one identifier. Rows are taken in the order of the file; what is wrong with one is named by line, column and code
//! and does not hold up the others ([`row`] lists the codes).
//!
//! # A row whose identifiers are taken
//!
//! - All belong to one member, and the row says nothing that the member does not have: it is skipped. So a file that is
//!   sent twice doubles nothing and fails nowhere.
//! - All belong to one member that differs from the row: `member_key_taken`; with `on_taken=skip` it is skipped too.
//! - Some are free, or they belong to several members: `member_key_taken`, always.
//!
//! A member of an earlier row of the same file counts like any other.
//!
//! # What a slice does
//!
//! Everything goes straight into its leaves by binary `COPY`: first the identifiers, into `member_key`, the referee, in the
//! order that keeps transactions from deadlocking; then members, their other identifiers and a row of `register_log` each.
//! Should an identifier be taken, all are taken back, and claimed once more so that each tells whose it is; rows that find
//! one taken give back what they won. No event tells of a single member, for caches keep nothing of
//! members that they do not know; one tells of the job when the end of its file is reached.

pub mod column;
pub mod http;
mod ready;
pub mod row;
pub mod write;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use self::{
    column::{BadColumns, Column, Columns},
    ready::{Ready, Told},
    row::{Draft, Reading},
    write::Sealed,
};
use super::{Source, key::Region};
use crate::{
    chain::{
        ChainError,
        system::{SystemBook, Systems},
    },
    clock::{Clock, Zone},
    db::pool::Office,
    event,
    id::{Counter, Day, EventId, MemberId, MemberIdMinter, MintError, StoreNo},
    job::{
        Checkpoint, Failure, Job, JobError,
        file::{FileReader, RawRows},
        line,
        runner::Work,
        store::Progress,
    },
    secret::{Holding, Secrets},
};

/// How long the list of stores is believed.
const STORES_TTL: Duration = Duration::from_secs(10);
/// Rows are read, checked and encrypted by so many threads at most,
const PARTS_MAX: usize = 2;
/// each of which has as many as this.
const PART_ROWS_MIN: usize = 500;
/// Rows that a preview looks at.
const PREVIEW_ROWS: usize = 1_000;
/// Failures that a preview shows.
const PREVIEW_FAILURES: usize = 20;

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// GBK and GB2312 are parts of it.
    #[serde(rename = "gb18030")]
    Gb18030,
}

/// The order of the parts of a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DateFormat {
    /// 1990-05-01, 1990/5/1, 1990.5.1 or 19900501.
    #[default]
    Ymd,
    /// 01/05/1990
    Dmy,
    /// 05/01/1990
    Mdy,
}

/// What becomes of a row whose identifiers all belong to one member that differs from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTaken {
    /// It fails with `member_key_taken`.
    #[default]
    Fail,
    /// It is skipped; the member stays as it is.
    Skip,
}

/// How a file is to be read, as the job keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// As the file or the caller names them.
    pub columns: Vec<String>,
    /// The first line is not a row.
    pub header: bool,
    pub delimiter: char,
    pub encoding: Encoding,
    pub date_format: DateFormat,
    pub on_taken: OnTaken,
    pub source: Source,
}

/// Imports members. Cheap to clone.
#[derive(Clone)]
pub struct MemberImport {
    pub office: Office,
    pub clock: Clock,
    pub zone: Zone,
    /// Where phone numbers without a country code belong.
    pub region: Region,
    pub secrets: Arc<Secrets>,
    pub minter: Arc<MemberIdMinter>,
    /// Numbers of events and of rows of logs.
    pub events: Counter,
    pub stores: Stores,
    pub systems: SystemBook,
}

/// The stores of the chain by id.
pub(crate) type ById = Arc<HashMap<String, StoreNo>>;

/// Those, with when they were read: believed for a while.
#[derive(Clone, Default)]
pub struct Stores(Arc<Mutex<Option<(Instant, ById)>>>);

impl Stores {
    pub(crate) async fn read(&self, office: &Office) -> Result<ById, JobError> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read_at, stores)) = held
            && read_at.elapsed() < STORES_TTL
        {
            return Ok(stores);
        }
        let list = sqlx::query_file!("sql/queries/store/numbers.sql");
        let rows = list.fetch_all(&mut *office.get().await?).await?;
        let stores = Arc::new(rows.into_iter().map(|row| (row.store_id, row.store_no)).collect());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&stores)));
        Ok(stores)
    }
}

/// Rows made ready.
pub struct Slice {
    drafts: Vec<(Draft, Sealed)>,
    failures: Vec<Failure>,
    /// The rows as they go in, should none of their identifiers be another's.
    ready: Ready,
    end: (Checkpoint, bool),
    /// A number for each row's log, and one for the job's event.
    numbers: Vec<i64>,
    /// The keys that it was encrypted and blinded with.
    holding: Holding,
}

/// Rows read, checked and encrypted.
type Made = (Vec<(Draft, Sealed)>, Vec<Failure>);

/// What the first rows of a file look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Each column and what it is taken for.
    columns: Vec<PreviewColumn>,
    /// Rows that were looked at. Whether identifiers are taken was not.
    rows: usize,
    /// How many rows there are, by the length of those looked at.
    rows_estimate: i64,
    rows_failed: usize,
    /// The first of them.
    failures: Vec<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PreviewColumn {
    column: String,
    taken_for: String,
}

/// What rows are held against.
struct Basis {
    options: Options,
    columns: Columns,
    stores: ById,
    systems: Arc<Systems>,
    now: DateTime<Utc>,
}

impl Work for MemberImport {
    type Slice = Slice;

    async fn prepare(
        &self,
        job: &Job,
        file: &mut FileReader,
        from: Checkpoint,
        rows_max: usize,
    ) -> Result<Slice, JobError> {
        let bad = |column| JobError::Inconsistent { table: "job", column, key: job.job_id.to_string() };
        let options: Options = serde_json::from_value(job.options.clone()).map_err(|_| bad("options"))?;
        let columns = Columns::parse(&options.columns, None).map_err(|_| bad("options"))?;
        let raw = Arc::new(file.read(from, rows_max, options.delimiter as u8, options.header).await?);
        let basis = Arc::new(Basis {
            stores: self.stores.read(&self.office).await?,
            systems: self.systems.get().await.map_err(of_chain)?,
            options,
            columns,
            now: self.clock.now(),
        });
        // Asked first: keys that change meanwhile are noticed when the slice is written.
        let holding = self.secrets.holding();
        let numbers = self.events.next(raw.len() + 1).await?;
        let (mut drafts, mut failures) = (Vec::with_capacity(raw.len()), Vec::new());
        let parts = raw.len().div_ceil(PART_ROWS_MIN).clamp(1, PARTS_MAX);
        let part_rows = raw.len().div_ceil(parts).max(1);
        let made = try_join_all((0..parts).map(|part| {
            let (import, basis, raw) = (self.clone(), Arc::clone(&basis), Arc::clone(&raw));
            let rows = part * part_rows..(part + 1) * part_rows;
            tokio::task::spawn_blocking(move || import.make(&basis, &raw, rows))
        }));
        for part in made.await.map_err(JobError::Panicked)? {
            let part: Made = part?;
            drafts.extend(part.0);
            failures.extend(part.1);
        }
        let (end, actor) = ((raw.end, raw.is_last), actor_of(job).to_owned());
        let encoding = tokio::task::spawn_blocking(move || {
            let told = Told { actor: &actor, numbers: &numbers[1..] };
            let ready = Ready::new(&basis.options, &drafts, &told, basis.now);
            Slice { ready, drafts, failures, end, numbers, holding }
        });
        encoding.await.map_err(JobError::Panicked)
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
        let bad = |column| JobError::Inconsistent { table: "job", column, key: job.job_id.to_string() };
        let options: Options = serde_json::from_value(job.options.clone()).map_err(|_| bad("options"))?;
        // Keys that changed since must not be written with any more. The job's row is locked: what is written from here
        // on counts as encrypted here.
        if self.secrets.holding() != slice.holding {
            return Err(JobError::KeysChanged);
        }
        let told = Told { actor: actor_of(job), numbers: &slice.numbers[1..] };
        let mut progress = write::write(conn, &self.secrets, &options, slice, &told, now).await?;
        progress.failures.extend_from_slice(&slice.failures);
        progress.failures.sort_by_key(|failure| failure.ordinal);
        Ok(progress)
    }

    async fn finish(
        &self,
        conn: &mut PgConnection,
        job: &Job,
        slice: &Slice,
        rows_ok: i64,
        now: DateTime<Utc>,
    ) -> Result<(), JobError> {
        let bad = || JobError::Inconsistent { table: "event", column: "event_id", key: job.job_id.to_string() };
        let event_id = EventId::from_parts(Day::from_date(now.date_naive()), slice.numbers[0]).map_err(|_| bad())?;
        let body = serde_json::json!({ "job_id": job.job_id, "members": rows_ok });
        event::store::insert_done(conn, now, event_id, event::Kind::MembersImported, job.job_id.get(), &body).await?;
        Ok(())
    }
}

impl MemberImport {
    fn reading<'a>(&'a self, basis: &'a Basis) -> Reading<'a> {
        Reading {
            options: &basis.options,
            columns: &basis.columns.0,
            region: self.region,
            stores: &basis.stores,
            systems: &basis.systems,
            secrets: &self.secrets,
            zone: self.zone,
            today: self.zone.day_of(basis.now).to_date(),
            now: basis.now,
        }
    }

    /// Reads, checks and encrypts rows.
    fn make(&self, basis: &Basis, raw: &RawRows, rows: Range<usize>) -> Result<Made, MintError> {
        let reading = self.reading(basis);
        let (mut drafts, mut failures) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in raw.iter().skip(rows.start).take(rows.len()) {
            match reading.read(row) {
                Ok(draft) => {
                    let sealed = Sealed::new(&self.secrets, self.mint()?, &draft);
                    drafts.push((draft, sealed));
                }
                Err(failure) => failures.push(failure),
            }
        }
        Ok((drafts, failures))
    }

    /// A member id. Rows come in bursts that may be faster than ids.
    fn mint(&self) -> Result<MemberId, MintError> {
        loop {
            match self.minter.mint() {
                Err(MintError::TooFast) => std::thread::sleep(Duration::from_millis(1)),
                other => return other,
            }
        }
    }

    /// What the first line says, or the caller.
    ///
    /// # Errors
    /// [`BadColumns`]
    pub fn columns(&self, systems: &Systems, options: &mut Options, head: &[u8]) -> Result<Columns, BadColumns> {
        if options.columns.is_empty() {
            let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
            let end = head.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(head.len());
            let fields = line::fields(&head[..end], options.delimiter as u8).map_err(|_| BadColumns::Malformed)?;
            let names = fields.iter().map(|field| row::decode(options.encoding, field).ok_or(BadColumns::Encoding));
            options.columns = names.map(|name| name.map(|name| name.trim().to_owned())).collect::<Result<_, _>>()?;
        }
        Columns::parse(&options.columns, Some(systems))
    }

    /// A look at the first rows of an uploaded file.
    ///
    /// # Errors
    /// [`JobError`]
    pub async fn preview(
        &self,
        options: &Options,
        columns: &Columns,
        file: &mut FileReader,
        bytes: i64,
    ) -> Result<Preview, JobError> {
        let raw = file.read(Checkpoint::default(), PREVIEW_ROWS, options.delimiter as u8, options.header).await?;
        let basis = Basis {
            stores: self.stores.read(&self.office).await?,
            systems: self.systems.get().await.map_err(of_chain)?,
            options: options.clone(),
            columns: columns.clone(),
            now: self.clock.now(),
        };
        let reading = self.reading(&basis);
        let mut failures: Vec<Failure> = raw.iter().filter_map(|row| reading.read(row).err()).collect();
        let rows_failed = failures.len();
        failures.truncate(PREVIEW_FAILURES);
        let rows = raw.len() as i64;
        let rows_estimate = if raw.is_last { rows } else { bytes.saturating_mul(rows) / raw.end.bytes.max(1) };
        let shown =
            |(name, column): (&String, &Column)| PreviewColumn { column: name.clone(), taken_for: column.to_string() };
        Ok(Preview {
            columns: options.columns.iter().zip(&columns.0).map(shown).collect(),
            rows: raw.len(),
            rows_estimate,
            rows_failed,
            failures,
        })
    }
}

/// As logs name whoever sent the file.
fn actor_of(job: &Job) -> &str {
    job.created_by.strip_prefix("key:").unwrap_or(&job.created_by)
}

fn of_chain(error: ChainError) -> JobError {
    match error {
        ChainError::Refused(refusal) => JobError::Refused(refusal),
        ChainError::Database(error) => JobError::Database(error),
        ChainError::Inconsistent { table, column, key } => JobError::Inconsistent { table, column, key },
    }
}
