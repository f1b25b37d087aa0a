//! Reading the logs: a member's own window, and the operator's lists.
//!
//! A member's window reaches three months back, which four leaves hold at most; the index by member serves it. The
//! operator's list stays within one month, hence one leaf, and needs no index but the primary key: a page looks at a
//! bounded number of rows, newest first, and its cursor goes on where the look ended. So a filter that fits little gives
//! short or empty pages, never a slow one: 10,000 rows of a million are 214 buffers and 7 ms. An index by actor would find
//! a rare one in five buffers, and nearly double what writing a row costs (1.86 times, ran), which every change would pay.
//!
//! Rows are in the order of their numbers: by UTC day, and within a day as nodes hand numbers out, in blocks. A row that
//! is written between two pages is on a later one or on none, and no row is on two.

use chrono::{DateTime, Months, Utc};
use sqlx::{FromRow, PgConnection};

use crate::{
    id::{Day, MemberId, StoreNo},
    partition::query,
};

/// A member's own window, in months.
pub const OWN_WINDOW_MONTHS: u32 = 3;
/// Rows that one page of an operator's list looks at.
pub const EXAMINED_MAX: i64 = 10_000;

/// One of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Registrations,
    Changes,
    Audits,
}

impl Log {
    const fn list(self) -> &'static str {
        match self {
            Self::Registrations => "register_log/list",
            Self::Changes => "change_log/list",
            Self::Audits => "audit_log/list",
        }
    }
}

/// Rows from `from` to before `before`, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: i64,
    pub before: i64,
}

impl Window {
    /// Whole days, the last one included.
    pub fn of_days(from: Day, until: Day) -> Self {
        Self { from: from.first_id(), before: until.plus(1).first_id() }
    }

    /// What a member may be shown at this instant.
    pub fn own(now: DateTime<Utc>) -> Self {
        let today = now.date_naive();
        let from = today.checked_sub_months(Months::new(OWN_WINDOW_MONTHS)).unwrap_or(today);
        Self::of_days(Day::from_date(from), Day::from_date(today))
    }

    /// The part of it before a row.
    pub fn before(self, log_id: i64) -> Self {
        Self { before: self.before.min(log_id), ..self }
    }

    /// Leaves of a table by month that hold it.
    pub fn leaves(self) -> u32 {
        let month = |id: i64| {
            let first = Day::from_code(id).first_of_month().to_date();
            chrono::Datelike::year(&first) * 12 + chrono::Datelike::month0(&first) as i32
        };
        if self.before <= self.from {
            return 0;
        }
        (month(self.before - 1) - month(self.from) + 1).unsigned_abs()
    }
}

/// Which rows of a log; `None` is any.
#[derive(Debug, Default)]
pub struct Filter {
    pub actor: Option<String>,
    /// The number of a kind, or of a source.
    pub what: Option<i16>,
    pub store_no: Option<StoreNo>,
    pub member_id: Option<MemberId>,
}

impl Filter {
    fn is_any(&self) -> bool {
        self.actor.is_none() && self.what.is_none() && self.store_no.is_none() && self.member_id.is_none()
    }
}

/// A row of a log.
#[derive(Debug, FromRow)]
pub struct LogRow {
    pub log_id: i64,
    pub member_id: Option<MemberId>,
    pub created_at: DateTime<Utc>,
    pub store_no: Option<StoreNo>,
    pub what: i16,
    pub actor: String,
    /// JSON.
    pub body: Option<String>,
}

/// A page of a log, with the number of the row where the next one goes on, if there may be one.
#[derive(Debug)]
pub struct Listed<R> {
    pub rows: Vec<R>,
    pub next: Option<i64>,
}

#[derive(FromRow)]
struct Found {
    log_id: Option<i64>,
    member_id: Option<MemberId>,
    created_at: Option<DateTime<Utc>>,
    store_no: Option<StoreNo>,
    what: Option<i16>,
    actor: Option<String>,
    body: Option<String>,
    examined: i64,
}

/// A page of the operator's list, newest first. The window lies in one leaf.
pub async fn list(
    conn: &mut PgConnection,
    log: Log,
    window: Window,
    filter: &Filter,
    rows_max: usize,
) -> Result<Listed<LogRow>, sqlx::Error> {
    if let (Log::Audits, Some(subject)) = (log, filter.member_id) {
        return list_of_subject(conn, subject, window, filter, rows_max).await;
    }
    // Without a filter every row fits.
    let examined_max = if filter.is_any() { rows_max as i64 + 1 } else { EXAMINED_MAX };
    let found: Vec<Found> = sqlx::query_as(query(log.list()).parent())
        .bind(window.from)
        .bind(window.before)
        .bind(examined_max)
        .bind(filter.actor.as_deref())
        .bind(filter.what)
        .bind(filter.store_no.map(StoreNo::get))
        .bind(filter.member_id)
        .bind(rows_max as i64 + 1)
        .fetch_all(conn)
        .await?;
    let mut rows = Vec::with_capacity(found.len());
    let mut end = None;
    for row in found {
        match (row.log_id, row.created_at, row.what, row.actor) {
            (Some(log_id), Some(created_at), Some(what), Some(actor)) => rows.push(LogRow {
                log_id,
                member_id: row.member_id,
                created_at,
                store_no: row.store_no,
                what,
                actor,
                body: row.body,
            }),
            // The last row: where the look ended, if there was more to look at.
            (log_id, ..) => end = log_id.filter(|_| row.examined == examined_max),
        }
    }
    let next = if rows.len() > rows_max {
        rows.truncate(rows_max);
        rows.last().map(|row| row.log_id)
    } else {
        end
    };
    Ok(Listed { rows, next })
}

/// A page of what was done to one member, newest first. The window lies in one leaf.
pub async fn list_of_subject(
    conn: &mut PgConnection,
    subject: MemberId,
    window: Window,
    filter: &Filter,
    rows_max: usize,
) -> Result<Listed<LogRow>, sqlx::Error> {
    let mut rows: Vec<LogRow> = sqlx::query_as(query("audit_log/of_member").parent())
        .bind(window.from)
        .bind(window.before)
        .bind(subject)
        .bind(filter.actor.as_deref())
        .bind(filter.what)
        .bind(rows_max as i64 + 1)
        .fetch_all(conn)
        .await?;
    let more = rows.len() > rows_max;
    rows.truncate(rows_max);
    let next = rows.last().map(|row| row.log_id).filter(|_| more);
    Ok(Listed { rows, next })
}

/// A change as its member may be shown it: not who did it.
#[derive(Debug, FromRow)]
pub struct OwnChange {
    pub log_id: i64,
    pub created_at: DateTime<Utc>,
    pub store_no: Option<StoreNo>,
    pub what: i16,
    /// JSON.
    pub body: String,
}

/// A page of a member's own window, newest first.
pub async fn list_of_member(
    conn: &mut PgConnection,
    member_id: MemberId,
    window: Window,
    rows_max: usize,
) -> Result<Listed<OwnChange>, sqlx::Error> {
    let mut rows: Vec<OwnChange> = sqlx::query_as(query("change_log/of_member").parent())
        .bind(member_id)
        .bind(window.from)
        .bind(window.before)
        .bind(rows_max as i64 + 1)
        .fetch_all(conn)
        .await?;
    let more = rows.len() > rows_max;
    rows.truncate(rows_max);
    let next = rows.last().map(|row| row.log_id).filter(|_| more);
    Ok(Listed { rows, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_window_lies_in_four_leaves_at_most() {
        for (now, from, leaves) in [
            ("2026-11-22T23:59:59Z", "2026-08-22", 4),
            ("2026-11-30T12:00:00Z", "2026-08-30", 4),
            ("2026-05-31T00:00:00Z", "2026-02-28", 4),
            ("2026-03-01T00:00:00Z", "2025-12-01", 4),
        ] {
            let window = Window::own(now.parse().unwrap());
            assert_eq!(Day::from_code(window.from).to_string(), from, "{now}");
            assert_eq!(window.leaves(), leaves, "{now}");
        }
    }

    #[test]
    fn a_window_of_days_has_its_last_day_and_shrinks_before_a_row() {
        let day = |text: &str| Day::from_date(text.parse().unwrap());
        let month = Window::of_days(day("2026-11-01"), day("2026-11-30"));
        assert_eq!(month.leaves(), 1);
        assert!(month.from <= day("2026-11-01").first_id() && month.before > day("2026-11-30").first_id() + 5);
        assert_eq!(month.before(day("2026-11-22").first_id() + 7).before, day("2026-11-22").first_id() + 7);
        assert_eq!(month.before(day("2027-01-01").first_id()), month, "a cursor never widens a window");
        assert_eq!(month.before(0).leaves(), 0);
    }
}
