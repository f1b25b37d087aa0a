//! Which coupons a job made, as runs of the counter that codes are made of.
//!
//! A run is written with its coupons in one transaction, so after a crash the coupons of a job are found again to the
//! last one. The numbers themselves are leased before: those of a slice that was never written are a gap in the counter,
//! which costs nothing, while leasing them within would hold everybody's counter for as long as a slice takes.

use sqlx::PgConnection;

use super::JobError;
use crate::id::{Day, JobId};

/// A run of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Coupons of the job before these.
    pub position: i64,
    pub first_no: i64,
    pub coupons: i32,
    /// `None`: each coupon has a day of its own.
    pub day: Option<i32>,
}

impl Range {
    /// Day and number of each coupon from a position on.
    ///
    /// # Errors
    /// `Inconsistent` when the day is none.
    pub fn numbers_from(&self, position: i64) -> Result<impl Iterator<Item = (Day, i64)> + use<>, JobError> {
        let bad = || JobError::Inconsistent { table: "job_range", column: "day", key: self.first_no.to_string() };
        let day = self.day.and_then(|day| Day::from_number(day).ok()).ok_or_else(bad)?;
        let passed = (position - self.position).max(0);
        Ok((self.first_no + passed..self.first_no + i64::from(self.coupons)).map(move |no| (day, no)))
    }
}

/// Notes coupons that are written in the same transaction. The job's row is locked.
pub async fn insert(
    conn: &mut PgConnection,
    job_id: JobId,
    first_no: i64,
    coupons: usize,
    day: Option<Day>,
) -> Result<(), JobError> {
    let coupons = i32::try_from(coupons).expect("a slice has few rows");
    let day = day.map(Day::number);
    sqlx::query_file!("sql/queries/job_range/insert.sql", job_id.get(), first_no, coupons, day).execute(conn).await?;
    Ok(())
}

/// Up to `rows_max` runs, from the one that holds the coupon at `position` on.
pub async fn list(
    conn: &mut PgConnection,
    job_id: JobId,
    position: i64,
    rows_max: i64,
) -> Result<Vec<Range>, JobError> {
    let list = sqlx::query_file_as!(Range, "sql/queries/job_range/list.sql", job_id.get(), position, rows_max);
    Ok(list.fetch_all(conn).await?)
}

/// Coupons that a job made.
pub async fn count(conn: &mut PgConnection, job_id: JobId) -> Result<i64, JobError> {
    Ok(sqlx::query_file_scalar!("sql/queries/job_range/count.sql", job_id.get()).fetch_one(conn).await?)
}

/// Which of these numbers are the job's.
pub async fn holding(conn: &mut PgConnection, job_id: JobId, numbers: &[i64]) -> Result<Vec<i64>, JobError> {
    Ok(sqlx::query_file_scalar!("sql/queries/job_range/holding.sql", job_id.get(), numbers).fetch_all(conn).await?)
}
