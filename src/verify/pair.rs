//! The pairs of tables and what can be asked of each.
//!
//! A pair walks one of its sides in chunks and names the rows it suspects ([`Pair::chunk`]), looks at suspects exactly
//! ([`Pair::examine`]) and mends one of them under locks ([`Pair::mend`]). The first two run in one snapshot each; the
//! last in a READ COMMITTED transaction that locks, examines again and only then writes.

use std::sync::Arc;

use sqlx::PgConnection;

use super::{
    conflict, count,
    leaves::Leaves,
    ledger, member_key, part,
    projection::{HISTORY, INDEX, Projection, RECEIVE},
    report::{Difference, Repair},
    row::{Key, Value},
    sample::Stretch,
};
use crate::{partition::Leaf, secret::Secrets};

#[derive(Debug, Clone, Copy)]
pub(super) enum Pair {
    Ledger,
    Projection(&'static Projection),
    Stock,
    Part,
    Taken,
    MemberKey,
    Conflict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Along the base table: finds what is missing or altered.
    Forward,
    /// Along the index table: finds what is there too much.
    Back,
}

/// What a comparison is about: a base row, and the index row through which it came up, if it was one.
///
/// `base` is the code, member or rule; `index` the key of the index row, for counts of a member the rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub base: i64,
    pub index: Option<Key>,
}

/// A stretch of one leaf, compared in one snapshot.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub rows: u64,
    pub skipped: u64,
    /// The last key; None at the end of the leaf.
    pub last: Option<Key>,
    pub differed: bool,
    pub suspects: Vec<Subject>,
}

#[derive(Debug)]
pub(super) struct Found {
    pub subject: Subject,
    pub difference: Difference,
}

impl Subject {
    pub fn base_key(&self) -> Key {
        vec![Value::I64(self.base)]
    }
}

impl Chunk {
    /// The chunk of so many rows, which end the leaf when they are fewer than asked for.
    pub fn ending(rows: usize, limit: i64, last: Option<Key>) -> Self {
        Self { rows: rows as u64, last: last.filter(|_| rows as i64 >= limit), ..Self::default() }
    }
}

/// In the order in which they are to be mended: the ledger decides over coupons, coupons over their index rows, and
/// index rows over counts, coupons and uses over their parts.
pub(super) const PAIRS: [Pair; 9] = [
    Pair::Ledger,
    Pair::Projection(&RECEIVE),
    Pair::Projection(&INDEX),
    Pair::Projection(&HISTORY),
    Pair::Stock,
    Pair::Part,
    Pair::Taken,
    Pair::MemberKey,
    Pair::Conflict,
];

impl Pair {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ledger => "coupon / redemption",
            Self::Projection(projection) => projection.name,
            Self::Stock => "coupon_index / coupon_stock",
            Self::Part => "coupon, redemption / coupon_stock by day, store and money",
            Self::Taken => "coupon_receive / member_rule",
            Self::MemberKey => "member / member_key",
            Self::Conflict => "redemption_conflict / redemption",
        }
    }

    /// The tables that `--tables` knows the pair by.
    pub fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Ledger => &["coupon", "redemption"],
            Self::Projection(projection) => match projection.index.table {
                "coupon_receive" => &["coupon", "coupon_receive"],
                "coupon_index" => &["coupon", "coupon_index"],
                _ => &["coupon", "coupon_history_index"],
            },
            Self::Stock => &["coupon_index", "coupon_stock"],
            Self::Part => &["coupon", "redemption", "coupon_stock"],
            Self::Taken => &["coupon_receive", "member_rule"],
            Self::MemberKey => &["member", "member_auth", "member_key"],
            Self::Conflict => &["redemption_conflict", "redemption"],
        }
    }

    /// The table whose leaves are walked.
    pub fn walked(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Ledger | Self::Projection(_), Direction::Forward) => "coupon",
            (Self::Ledger, Direction::Back) => "redemption",
            (Self::Projection(projection), Direction::Back) => projection.index.table,
            (Self::Stock, Direction::Forward) | (Self::Part, _) => "coupon_stock",
            (Self::Stock, Direction::Back) => "coupon_index",
            (Self::Taken, Direction::Forward) => "member_rule",
            (Self::Taken, Direction::Back) => "coupon_receive",
            (Self::MemberKey, Direction::Forward) => "member",
            (Self::MemberKey, Direction::Back) => "member_key",
            (Self::Conflict, _) => "redemption_conflict",
        }
    }

    /// The directions that there are: counting a rule with all its parts says it both ways, and a use without a conflict
    /// is as it should be.
    pub fn directions(self) -> &'static [Direction] {
        match self {
            Self::Part | Self::Conflict => &[Direction::Forward],
            _ => &[Direction::Forward, Direction::Back],
        }
    }

    /// The statement that lists the rules that are counted, where the walk is along rules.
    pub fn rules(self, direction: Direction) -> Option<&'static str> {
        match (self, direction) {
            (Self::Stock, Direction::Forward) => Some("verify/stock_rules"),
            (Self::Part, Direction::Forward) => Some("verify/part_rules"),
            _ => None,
        }
    }

    /// What a sample leaves open also of what it looked at.
    pub fn open_in_a_sample(self) -> Option<&'static str> {
        match self {
            Self::Stock | Self::Part => {
                Some("whether the rows that were counted are right, which their own pairs compared in the sample only")
            }
            Self::Taken => Some(
                "whether the coupons that were counted are right, which their own pair compared in the sample only",
            ),
            Self::Ledger | Self::Projection(_) | Self::MemberKey | Self::Conflict => None,
        }
    }

    /// Compares a stretch of a leaf.
    pub async fn chunk(
        self,
        conn: &mut PgConnection,
        sight: &Sight,
        direction: Direction,
        leaf: Leaf,
        stretch: &Stretch,
    ) -> Result<Chunk, sqlx::Error> {
        let leaves = &sight.leaves;
        match self {
            Self::Ledger => ledger::chunk(conn, leaves, direction, leaf, stretch).await,
            Self::Projection(projection) => projection.chunk(conn, leaves, direction, leaf, stretch).await,
            Self::Stock => count::stock_chunk(conn, direction, leaf, stretch).await,
            Self::Part => part::chunk(conn, leaves, leaf, stretch).await,
            Self::Taken => count::taken_chunk(conn, direction, leaf, stretch).await,
            Self::MemberKey => member_key::chunk(conn, sight, direction, leaf, stretch).await,
            Self::Conflict => conflict::chunk(conn, leaves, leaf, stretch).await,
        }
    }

    /// What is wrong with these, exactly.
    pub async fn examine(
        self,
        conn: &mut PgConnection,
        sight: &Sight,
        subjects: &[Subject],
    ) -> Result<Vec<Found>, sqlx::Error> {
        match self {
            Self::Ledger => ledger::examine(conn, &sight.leaves, subjects).await,
            Self::Projection(projection) => projection.examine(conn, &sight.leaves, subjects).await,
            Self::Stock => count::examine_stock(conn, subjects).await,
            Self::Part => part::examine(conn, &sight.leaves, subjects).await,
            Self::Taken => count::examine_taken(conn, subjects).await,
            Self::MemberKey => member_key::examine(conn, sight, subjects).await,
            Self::Conflict => conflict::examine(conn, &sight.leaves, subjects).await,
        }
    }

    /// Locks, examines again and writes. The transaction is the caller's and is to be committed.
    pub async fn mend(self, conn: &mut PgConnection, sight: &Sight, subject: &Subject) -> Result<Repair, sqlx::Error> {
        match self {
            Self::Ledger => ledger::mend(conn, subject).await,
            Self::Projection(projection) => projection.mend(conn, subject).await,
            Self::Stock => count::mend_stock(conn, subject).await,
            Self::Part => part::mend(conn, &sight.leaves, subject).await,
            Self::Taken => count::mend_taken(conn, subject).await,
            Self::MemberKey => member_key::mend(conn, sight, subject).await,
            Self::Conflict => Ok(conflict::mend()),
        }
    }
}

/// What a comparison sees besides the rows.
pub(super) struct Sight {
    pub secrets: Arc<Secrets>,
    pub leaves: Leaves,
}
