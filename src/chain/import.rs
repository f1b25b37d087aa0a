//! What imports of the registry have in common: how they are asked for and what they answer.
//!
//! All the good rows of a file go in in one transaction; each bad one is named. Rows are sorted by their key before they
//! are written, so that two imports of one file wait for each other and neither doubles anything.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ChainError, csv::RowFailure};
use crate::{db::pool, problem::Code};

/// Failures that an answer names; it counts all.
pub const FAILURES_MAX: usize = 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// A preview: everything is checked and counted, nothing is written.
    pub dry_run: Option<bool>,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImportReport {
    /// Nothing was written.
    pub dry_run: bool,
    pub rows: usize,
    pub created: usize,
    pub updated: usize,
    pub unchanged: usize,
    /// Rows that were left out.
    pub failed: usize,
    /// Why, in the order of lines: the first 1,000.
    #[schema(max_items = 1000)]
    pub failures: Vec<RowFailure>,
}

impl ImportReport {
    /// `rows` in all, of which those named in `failures` were left out.
    pub fn new(dry_run: bool, rows: usize, created: usize, updated: usize, mut failures: Vec<RowFailure>) -> Self {
        failures.sort_by_key(|failure| failure.line);
        let mut lines: Vec<u64> = failures.iter().map(|failure| failure.line).collect();
        lines.dedup();
        let failed = lines.len();
        failures.truncate(FAILURES_MAX);
        let unchanged = rows - failed - created - updated;
        Self { dry_run, rows, created, updated, unchanged, failed, failures }
    }
}

/// Leaves out each row whose key stood on a line before.
pub(super) fn without_repeated<T>(
    rows: Vec<T>,
    column: &'static str,
    key: impl Fn(&T) -> (u64, String),
    failures: &mut Vec<RowFailure>,
) -> Vec<T> {
    let mut first: HashMap<String, u64> = HashMap::with_capacity(rows.len());
    rows.into_iter()
        .filter(|row| {
            let (line, id) = key(row);
            let before = *first.entry(id).or_insert(line);
            if before != line {
                let detail = format!("was given before, on line {before}");
                failures.push(RowFailure { line, column: Some(column), code: Code::InvalidField, detail });
            }
            before == line
        })
        .collect()
}

/// The end of a transaction that must not commit: a preview carries its report out through the rollback.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("a preview is rolled back")]
    Preview(ImportReport),
    #[error(transparent)]
    Failed(#[from] ChainError),
}

impl From<pool::Error> for Ended {
    fn from(error: pool::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// What a transaction of an import has come to.
pub(super) fn report_of(outcome: Result<ImportReport, Ended>) -> Result<ImportReport, ChainError> {
    match outcome {
        Ok(report) | Err(Ended::Preview(report)) => Ok(report),
        Err(Ended::Failed(error)) => Err(error),
    }
}
