//! A rule's coupons, page by page, from `coupon_index`: one statement on one leaf a page.
//!
//! Pages go by code, which never changes, so that a coupon that is used, made void or bound between two pages neither comes
//! twice nor is lost. A code's order is that of the issue day; within a day it says nothing. Codes that are issued while
//! somebody turns pages come if they lie further on.
//!
//! Of all filters only the referrer has an index of its own, since a referrer never changes: state and holder are written by
//! every redemption, and an index on either would cost each of them a write. So a page looks at [`EXAMINED_MAX`] rows at
//! most, however few of them fit, and says where it stopped.

use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, PgConnection};

use super::StateName;
use crate::{
    id::{CodeId, Day, MemberId, RuleId},
    partition::{plan, query},
};

/// Rows that one page looks at.
pub const EXAMINED_MAX: i64 = 2_000;

/// The states that lists can be asked for. A lock shows only in the coupon itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListState {
    /// Not used up, not void, and in time or early. A locked one is among them.
    Issued,
    Redeemed,
    Void,
    /// Not used in time.
    Expired,
}

/// Which coupons of a rule.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub state: Option<ListState>,
    pub valid_until_from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub valid_until_before: Option<DateTime<Utc>>,
    pub referrer: Option<String>,
    /// Days of issue, the last one with them.
    pub issued: (Option<Day>, Option<Day>),
}

/// A row of `coupon_index`.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Listed {
    pub code_id: CodeId,
    /// Exclusive.
    pub valid_until: DateTime<Utc>,
    pub member_id: Option<MemberId>,
    state: i16,
    pub referrer: Option<String>,
}

/// A page, with the code after which the next one goes on, if there may be one.
#[derive(Debug)]
pub struct ListedPage {
    pub rows: Vec<Listed>,
    pub next: Option<CodeId>,
}

impl Listed {
    /// The state at this instant, as far as this row knows.
    pub fn state(&self, now: DateTime<Utc>) -> StateName {
        state_of(self.state, self.valid_until, now)
    }
}

/// The state that an index row's number and deadline mean: a lock does not show there.
pub(super) fn state_of(number: i16, valid_until: DateTime<Utc>, now: DateTime<Utc>) -> StateName {
    match number {
        2 => StateName::Redeemed,
        3 => StateName::Void,
        _ if valid_until <= now => StateName::Expired,
        _ => StateName::Issued,
    }
}

impl Filter {
    fn is_any(&self) -> bool {
        self.state.is_none() && self.valid_until_from.is_none() && self.valid_until_before.is_none()
    }

    /// What the columns must be: state, and deadline from and before.
    fn columns(&self, now: DateTime<Utc>) -> (Option<i16>, Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
        let (mut from, mut before) = (self.valid_until_from, self.valid_until_before);
        // Expired is whatever ends now or before. Instants are whole microseconds.
        let expired = now + TimeDelta::microseconds(1);
        let number = self.state.map(|state| match state {
            ListState::Issued => {
                from = Some(from.map_or(expired, |from| from.max(expired)));
                1
            }
            ListState::Expired => {
                before = Some(before.map_or(expired, |before| before.min(expired)));
                1
            }
            ListState::Redeemed => 2,
            ListState::Void => 3,
        });
        (number, from, before)
    }

    /// The codes of the days, after that of the page before.
    fn codes(&self, after: Option<CodeId>) -> Range<i64> {
        let (first, last) = self.issued;
        let from = first.map_or(0, Day::first_id).max(after.map_or(0, |code| code.get() + 1));
        from..last.map_or(i64::MAX, |last| last.plus(1).first_id())
    }
}

/// A page of a rule's coupons.
///
/// # Errors
/// Those of the database.
pub async fn list_of_rule(
    conn: &mut PgConnection,
    rule_id: RuleId,
    filter: &Filter,
    now: DateTime<Utc>,
    after: Option<CodeId>,
    limit: i64,
) -> Result<ListedPage, sqlx::Error> {
    #[derive(FromRow)]
    struct Seen {
        #[sqlx(flatten)]
        row: Listed,
        place: i64,
        fits: bool,
    }
    // Without a filter every row fits.
    let examined_max = if filter.is_any() { limit + 1 } else { EXAMINED_MAX.max(limit + 1) };
    let (state, from, before) = filter.columns(now);
    let codes = filter.codes(after);
    let name = if filter.referrer.is_some() { "coupon_index/list_referred" } else { "coupon_index/list" };
    let mut statement = sqlx::query_as(query(name).on(&[plan("coupon_index").leaf_i64(rule_id.get())]))
        .bind(rule_id)
        .bind(codes.start)
        .bind(codes.end)
        .bind(state)
        .bind(from)
        .bind(before)
        .bind(examined_max)
        .bind(limit + 1);
    if let Some(referrer) = &filter.referrer {
        statement = statement.bind(referrer);
    }
    let mut seen: Vec<Seen> = statement.fetch_all(conn).await?;
    let stopped = seen.last().filter(|last| last.place == examined_max).map(|last| last.row.code_id);
    let mut next = stopped;
    if seen.len() as i64 > limit {
        seen.truncate(limit as usize);
        next = seen.last().map(|last| last.row.code_id);
    }
    let rows = seen.into_iter().filter(|seen| seen.fits).map(|seen| seen.row).collect();
    Ok(ListedPage { rows, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn issued_and_expired_part_at_now_whatever_else_is_asked() {
        let asked = |state, from, before| {
            let filter = Filter { state, valid_until_from: from, valid_until_before: before, ..Filter::default() };
            filter.columns(at(0))
        };
        let edge = Some(at(0) + TimeDelta::microseconds(1));
        assert_eq!(asked(None, None, None), (None, None, None));
        assert_eq!(asked(Some(ListState::Issued), None, None), (Some(1), edge, None));
        assert_eq!(asked(Some(ListState::Issued), Some(at(5)), Some(at(9))), (Some(1), Some(at(5)), Some(at(9))));
        assert_eq!(asked(Some(ListState::Issued), Some(at(-5)), None), (Some(1), edge, None));
        assert_eq!(asked(Some(ListState::Expired), None, Some(at(9))), (Some(1), None, edge));
        assert_eq!(asked(Some(ListState::Expired), None, Some(at(-9))), (Some(1), None, Some(at(-9))));
        assert_eq!(asked(Some(ListState::Void), None, None), (Some(3), None, None));
        assert_eq!(state_of(1, at(0), at(0)), StateName::Expired);
        assert_eq!(state_of(1, at(1), at(0)), StateName::Issued);
    }

    #[test]
    fn days_of_issue_are_codes_and_a_cursor_narrows_them() {
        let day = |text: &str| text.parse::<Day>().unwrap();
        let filter = Filter { issued: (Some(day("2026-11-01")), Some(day("2026-11-30"))), ..Filter::default() };
        let month = day("2026-11-01").first_id()..day("2026-12-01").first_id();
        assert_eq!(filter.codes(None), month);
        let inside = CodeId::new(day("2026-11-15").first_id()).unwrap();
        assert_eq!(filter.codes(Some(inside)), inside.get() + 1..month.end);
        let earlier = CodeId::new(day("2026-10-15").first_id()).unwrap();
        assert_eq!(filter.codes(Some(earlier)), month, "a cursor never widens the days");
        assert_eq!(Filter::default().codes(None), 0..i64::MAX);
    }
}
