//! Conflicts of offline uploads against the ledger: what a till did stands in one of the two, once.
//!
//! A conflict and a use are of one item when the till's number, the code, the amount and the order are the same, as an
//! upload compares them. Whichever of the two is the truth, somebody has to say: nothing is taken away here. A conflict
//! whose code fails its check, or that could not be read, has no use to be held against.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::NaiveDate;
use sqlx::{FromRow, PgConnection};

use super::{
    leaves::Leaves,
    pair::{Chunk, Found, Subject},
    report::{Difference, Kind, Repair},
    row::Value,
    sample::{Stretch, typed_page_rows},
};
use crate::{
    id::Day,
    partition::{Leaf, plan, query},
    problem::Code,
};

#[derive(Debug, FromRow)]
struct ConflictRow {
    conflict_id: i64,
    code_id: Option<i64>,
    amount: i64,
    business_date: NaiveDate,
    store_no: i32,
    sequence: i32,
    register: String,
    order_ref: String,
    reason: String,
}

impl ConflictRow {
    /// One that could not be read claims no till's number: it may say the same as one that could.
    fn has_number(&self) -> bool {
        self.code_id.is_some() && self.reason != Code::ItemMalformed.name()
    }

    fn first_id(&self) -> i64 {
        Day::from_date(self.business_date).first_id()
    }

    fn item(&self) -> Option<Item<'_>> {
        Some(Item {
            day: Day::from_date(self.business_date),
            till: (self.store_no, &self.register, self.sequence),
            code_id: self.code_id?,
            amount: self.amount,
            order_ref: &self.order_ref,
        })
    }
}

#[derive(Debug, FromRow)]
struct UseRow {
    redemption_id: i64,
    store_no: i32,
    register: Option<String>,
    sequence: Option<i32>,
    code_id: i64,
    amount: i64,
    order_ref: String,
}

impl UseRow {
    /// `None` for a use that had no till's number.
    fn item(&self) -> Option<Item<'_>> {
        Some(Item {
            day: Day::from_code(self.redemption_id),
            till: (self.store_no, self.register.as_deref()?, self.sequence?),
            code_id: self.code_id,
            amount: self.amount,
            order_ref: &self.order_ref,
        })
    }
}

/// What an upload knows an item by.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Item<'a> {
    day: Day,
    till: (i32, &'a str, i32),
    code_id: i64,
    amount: i64,
    order_ref: &'a str,
}

/// The conflicts of a stretch of a leaf.
pub(super) async fn chunk(
    conn: &mut PgConnection,
    leaves: &Leaves,
    leaf: Leaf,
    stretch: &Stretch,
) -> Result<Chunk, sqlx::Error> {
    let rows: Vec<ConflictRow> = match stretch {
        Stretch::After(after, limit) => {
            let after = after.as_ref().map_or(i64::MIN, |key| key[0].as_i64());
            let sql = query("verify/conflict_walk").on(&[leaf]);
            sqlx::query_as(sql).bind(after).bind(limit).fetch_all(&mut *conn).await?
        }
        Stretch::Pages(pages) => typed_page_rows(conn, query("verify/conflict_pages").on(&[leaf]), pages).await?,
        Stretch::Rules(_) => Vec::new(),
    };
    let mut chunk = stretch.chunk(rows.len(), rows.last().map(|row| vec![Value::I64(row.conflict_id)]));
    let twice = in_ledger(conn, leaves, &rows).await?;
    chunk.suspects = twice.into_iter().map(|conflict_id| Subject { base: conflict_id, index: None }).collect();
    chunk.differed = !chunk.suspects.is_empty();
    Ok(chunk)
}

pub(super) async fn examine(
    conn: &mut PgConnection,
    leaves: &Leaves,
    subjects: &[Subject],
) -> Result<Vec<Found>, sqlx::Error> {
    let mut by_leaf: BTreeMap<Leaf, Vec<i64>> = BTreeMap::new();
    for subject in subjects {
        by_leaf.entry(plan("redemption_conflict").leaf_i64(subject.base)).or_default().push(subject.base);
    }
    let mut rows: Vec<ConflictRow> = Vec::new();
    for (leaf, ids) in by_leaf.into_iter().filter(|(leaf, _)| leaves.stands(*leaf)) {
        let sql = query("verify/conflict_find").on(&[leaf]);
        rows.extend(sqlx::query_as::<_, ConflictRow>(sql).bind(ids).fetch_all(&mut *conn).await?);
    }
    let twice = in_ledger(conn, leaves, &rows).await?;
    let found = twice.into_iter().map(|conflict_id| Found {
        subject: Subject { base: conflict_id, index: None },
        difference: Difference::new(Kind::Extra, "redemption_conflict", vec![Value::I64(conflict_id)], Vec::new()),
    });
    Ok(found.collect())
}

pub(super) fn mend() -> Repair {
    Repair::Left("what a till did stands in the ledger too; which of the two holds, somebody must say")
}

/// Of these conflicts, those that stand in the ledger as well.
async fn in_ledger(conn: &mut PgConnection, leaves: &Leaves, rows: &[ConflictRow]) -> Result<Vec<i64>, sqlx::Error> {
    let mut by_leaf: HashMap<Leaf, Vec<&ConflictRow>> = HashMap::new();
    for row in rows.iter().filter(|row| row.has_number()) {
        by_leaf.entry(plan("redemption").leaf_i64(row.first_id())).or_default().push(row);
    }
    let mut twice = Vec::new();
    for (leaf, rows) in by_leaf.into_iter().filter(|(leaf, _)| leaves.stands(*leaf)) {
        // By coupon, of which there are a few uses, and each once: a store has thousands in a day, and as many conflicts
        // when it was cut off.
        let codes: BTreeSet<i64> = rows.iter().filter_map(|row| row.code_id).collect();
        let uses: Vec<UseRow> = sqlx::query_as(query("verify/conflict_uses").on(&[leaf]))
            .bind(codes.into_iter().collect::<Vec<_>>())
            .fetch_all(&mut *conn)
            .await?;
        let uses: HashSet<Item<'_>> = uses.iter().filter_map(UseRow::item).collect();
        let stands = |row: &&&ConflictRow| row.item().is_some_and(|item| uses.contains(&item));
        twice.extend(rows.iter().filter(stands).map(|row| row.conflict_id));
    }
    twice.sort_unstable();
    Ok(twice)
}
