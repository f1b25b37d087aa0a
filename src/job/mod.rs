//! Jobs: long work over a file or a count, done in slices by whichever node has a hand free.
//!
//! # What holds
//!
//! - A slice is one transaction: what it writes and how far the job came, the failures it names included. It is fenced by
//!   the job's row, locked and compared first: the node must hold the lease, the job must run, and the checkpoint must be
//!   the one that the slice was prepared from. So nothing happens twice and nothing is lost, wherever a process dies.
//! - Slices commit within a second or so; their size follows what the last one took.
//! - Jobs take turns of about a second, those that waited longest first, so that a small one is never stuck behind a large
//!   one. A node works on a bounded number at once.
//! - Pausing, resuming and cancelling change the row; the node that works on the job sees it at its next slice.
//! - The file is in the database, encrypted, so that any node can go on; it is gone after [`FILE_DAYS`] days. Failures name
//!   line, column and code and hold nothing of what stood in the row; they stay with the job,
//!   the first [`FAILURES_MAX`] of them. A job that has ended is gone after a setting's days.
//!
//! - A job over a count has no file: its bytes are the things to be done, one each, so that checkpoints, turns and progress
//!   are those of any other job.
//! - A job that is refused something by a rule of its domain pauses and says so in `error`: who mends it resumes it.
//!
//! A kind of job is a [`runner::Work`]. `member::import` is the pattern that others follow.

pub mod file;
pub mod http;
pub mod line;
pub mod range;
pub mod runner;
pub mod store;
pub mod upload;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    coupon::decide::millis,
    db::{lane::WriteError, pool},
    id::{BlockError, IdError, JobId, MintError},
    problem::{Code, Refusal},
    secret::Undecryptable,
};

/// Days for which an uploaded file is kept.
pub const FILE_DAYS: i64 = 7;
/// An upload that brought nothing for so long is taken for broken off.
pub const UPLOAD_STALE: TimeDelta = TimeDelta::hours(1);
/// How often a job is taken up without a slice that goes through before it is given up.
pub const ATTEMPTS_MAX: i16 = 150;
/// Failures of a job that are kept; those after them are only counted.
pub const FAILURES_MAX: i64 = 100_000;
/// The error of a job that was given up; resuming leads out of it.
pub const GAVE_UP: &str = "gave_up";

/// What a job does. The numbers stand in rows and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobKind)]
pub enum Kind {
    MemberImport,
    /// Coupons of a rule for the members of a file, or so many without a holder.
    IssueJob,
    CouponImport,
    /// What an issue job made and nobody has used is made void.
    IssueUndo,
}

impl Kind {
    pub const ALL: &[Kind] = &[Kind::MemberImport, Kind::IssueJob, Kind::CouponImport, Kind::IssueUndo];

    pub const fn number(self) -> i16 {
        match self {
            Self::MemberImport => 1,
            Self::IssueJob => 2,
            Self::CouponImport => 3,
            Self::IssueUndo => 4,
        }
    }

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.number() == number)
    }

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemberImport => "member_import",
            Self::IssueJob => "issue_job",
            Self::CouponImport => "coupon_import",
            Self::IssueUndo => "issue_undo",
        }
    }
}

/// Where a job stands. The numbers stand in rows; 2 and 6 are kept for a preview and an undo that are work themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobState)]
pub enum State {
    /// Its file is on the way.
    Uploading,
    /// Waits to be started.
    Ready,
    /// Waits for its turn or is being worked on.
    Running,
    Paused,
    /// Ended by a caller. What was done stays.
    Cancelled,
    /// Ended at the end of its file.
    Done,
    /// Ended by us; `error` says why. What was done stays.
    Failed,
}

impl State {
    pub const ALL: &[State] =
        &[State::Uploading, State::Ready, State::Running, State::Paused, State::Cancelled, State::Done, State::Failed];

    pub const fn number(self) -> i16 {
        match self {
            Self::Uploading => 1,
            Self::Ready => 3,
            Self::Running => 4,
            Self::Paused => 5,
            Self::Cancelled => 7,
            Self::Done => 8,
            Self::Failed => 9,
        }
    }

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.number() == number)
    }

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Cancelled | Self::Done | Self::Failed)
    }
}

/// What a caller may do with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Start,
    Pause,
    Resume,
    Cancel,
}

impl Act {
    /// The state that it leads to. A job that is there already stays as it is.
    pub const fn to(self) -> State {
        match self {
            Self::Start | Self::Resume => State::Running,
            Self::Pause => State::Paused,
            Self::Cancel => State::Cancelled,
        }
    }

    /// The states that it leads from; [`Act::Resume`] from [`State::Failed`] too, where the error is [`GAVE_UP`].
    pub const fn from(self) -> &'static [State] {
        match self {
            Self::Start => &[State::Ready],
            Self::Pause => &[State::Running],
            Self::Resume => &[State::Paused],
            Self::Cancel => &[State::Uploading, State::Ready, State::Running, State::Paused],
        }
    }
}

/// How far a job came: everything before it is done, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    pub bytes: i64,
    pub lines: i64,
    /// Rows without the header.
    pub rows: i64,
}

/// A job as its row has it.
#[derive(Debug, Clone)]
pub struct Job {
    pub job_id: JobId,
    pub kind: Kind,
    pub state: State,
    pub created_by: String,
    pub number: Option<String>,
    pub digest: Option<uuid::Uuid>,
    pub file_name: Option<String>,
    pub bytes: i64,
    pub bytes_done: i64,
    pub lines_done: i64,
    pub rows_ok: i64,
    pub rows_skipped: i64,
    pub rows_failed: i64,
    pub attempts: i16,
    pub error: Option<String>,
    pub options: serde_json::Value,
    pub preview: Option<serde_json::Value>,
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

impl Job {
    pub fn checkpoint(&self) -> Checkpoint {
        let rows = self.rows_ok + self.rows_skipped + self.rows_failed;
        Checkpoint { bytes: self.bytes_done, lines: self.lines_done, rows }
    }

    /// As answers show it.
    pub fn show(&self) -> JobView {
        JobView {
            job_id: self.job_id,
            kind: self.kind,
            state: self.state,
            error: self.error.clone(),
            file_name: self.file_name.clone(),
            created_by: self.created_by.clone(),
            bytes: self.bytes,
            bytes_done: self.bytes_done,
            rows_done: self.checkpoint().rows,
            rows_ok: self.rows_ok,
            rows_skipped: self.rows_skipped,
            rows_failed: self.rows_failed,
            failures_cut: self.rows_failed > FAILURES_MAX,
            options: self.options.clone(),
            preview: self.preview.clone(),
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
        }
    }
}

/// A job and how far it came.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    pub job_id: JobId,
    pub kind: Kind,
    pub state: State,
    /// Why it failed: `file_expired`, `file_damaged`, `upload_broken` or `gave_up`; or why it paused by itself: the code of a
    /// refusal, such as `rule_not_active`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub file_name: Option<String>,
    /// The scope of who made it, such as `key:office`.
    pub created_by: String,
    /// Of the file; of a job without one, the coupons it is about.
    pub bytes: i64,
    /// How much of the file is done.
    pub bytes_done: i64,
    /// Rows that are done: ok, skipped and failed.
    pub rows_done: i64,
    pub rows_ok: i64,
    /// Rows that had nothing to add.
    pub rows_skipped: i64,
    /// Rows that were refused; `failures` names them.
    pub rows_failed: i64,
    /// More rows failed than `failures` names: the first 100,000.
    pub failures_cut: bool,
    #[schema(value_type = Object)]
    pub options: serde_json::Value,
    /// What the first rows of the file look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub preview: Option<serde_json::Value>,
    /// Counts changes, of progress too; the entity tag.
    pub version: i32,
    #[serde(serialize_with = "millis")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    pub updated_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub started_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A row that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobFailure)]
pub struct Failure {
    /// Of the row in the file, from 1, the header not counted.
    #[serde(rename = "row")]
    pub ordinal: i64,
    /// The line on which the row stands, from 1.
    pub line: i64,
    /// Absent where the row as a whole is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub column: Option<String>,
    /// What clients compare.
    pub code: String,
    /// For people. Nothing of what stood in the row.
    pub detail: String,
}

/// Why a job does not go on, or a question about one has no answer.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("the database failed")]
    Database(#[from] pool::Error),
    #[error("the row {key} of table {table} has an impossible {column}")]
    Inconsistent { table: &'static str, column: &'static str, key: String },
    /// The file is not what was uploaded: the job cannot go on.
    #[error("a piece of the file is missing or damaged")]
    Damaged(#[source] Option<Undecryptable>),
    /// Numbers cannot be had for the moment.
    #[error("no id could be minted")]
    Mint(#[from] MintError),
    #[error("no number could be had")]
    Numbers(#[from] BlockError),
    #[error("an id could not be made")]
    Id(#[from] IdError),
    #[error("the slice could not be written")]
    Write(#[from] WriteError),
    /// A slice that was made ready before is not written: it is made ready anew.
    #[error("the keys have changed since the slice was made ready")]
    KeysChanged,
    #[error("the blocking part of a slice did not end")]
    Panicked(#[source] tokio::task::JoinError),
}

impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Refusal> for JobError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Code> for JobError {
    fn from(code: Code) -> Self {
        Self::Refused(code.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_states_lead_back_and_forth() {
        for &state in State::ALL {
            assert_eq!(State::from_number(state.number()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for &kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
    }

    #[test]
    fn no_act_leads_out_of_an_end_and_each_leads_elsewhere() {
        for act in [Act::Start, Act::Pause, Act::Resume, Act::Cancel] {
            assert!(act.from().iter().all(|from| !from.has_ended() && *from != act.to()), "{act:?}");
        }
    }
}
