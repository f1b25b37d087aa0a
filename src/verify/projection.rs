//! Coupons and their index rows: by holder, by rule, by legacy code.
//!
//! Each index row is a projection of the coupon: its columns are columns of `coupon` with the same names and types, and
//! it is there when its key is not null. So what is expected follows from the base row by copying bytes.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    leaves::Leaves,
    pair::{Chunk, Direction, Found, Subject},
    report::{Difference, Kind, Repair},
    row::{Fold, Key, Row, Side, Type, Value, altered, bind_keys},
    sample::Stretch,
};
use crate::partition::{Leaf, plan, query};

/// An index of `coupon`.
#[derive(Debug)]
pub(super) struct Projection {
    pub name: &'static str,
    pub index: Side,
    mend: &'static str,
    delete: &'static str,
}

pub(super) static COUPON: Side = Side {
    table: "coupon",
    key: &[Type::I64],
    columns: &["code_id", "rule_id", "valid_until", "member_id", "legacy_key", "state", "referrer", "rule_version"],
    walk: "verify/coupon_walk",
    pages: "verify/coupon_pages",
    find: "verify/coupon_find",
    find_by: 1,
};

pub(super) static RECEIVE: Projection = Projection {
    name: "coupon / coupon_receive",
    index: Side {
        table: "coupon_receive",
        key: &[Type::I64, Type::I64],
        columns: &["member_id", "code_id", "rule_id", "valid_until", "state", "rule_version"],
        walk: "verify/coupon_receive_walk",
        pages: "verify/coupon_receive_pages",
        find: "coupon_receive/find",
        find_by: 2,
    },
    mend: "verify/coupon_receive_mend",
    delete: "verify/coupon_receive_delete",
};

pub(super) static INDEX: Projection = Projection {
    name: "coupon / coupon_index",
    index: Side {
        table: "coupon_index",
        key: &[Type::I64, Type::I64],
        columns: &["rule_id", "code_id", "valid_until", "member_id", "state", "referrer"],
        walk: "verify/coupon_index_walk",
        pages: "verify/coupon_index_pages",
        find: "coupon_index/find",
        find_by: 2,
    },
    mend: "verify/coupon_index_mend",
    delete: "verify/coupon_index_delete",
};

pub(super) static HISTORY: Projection = Projection {
    name: "coupon / coupon_history_index",
    index: Side {
        table: "coupon_history_index",
        key: &[Type::Uuid],
        columns: &["legacy_key", "code_id"],
        walk: "verify/coupon_history_walk",
        pages: "verify/coupon_history_pages",
        find: "verify/coupon_history_find",
        find_by: 1,
    },
    mend: "verify/coupon_history_mend",
    delete: "verify/coupon_history_delete",
};

impl Projection {
    /// The index row that a coupon should have.
    fn project(&self, coupon: &Row) -> Option<Row> {
        let cell = |column: &str| match COUPON.cell_no(column) {
            Some(at) => coupon.cells[at].clone(),
            None => Some(coupon.key[0].as_i64().to_be_bytes().as_slice().into()),
        };
        let (names, others) = self.index.columns.split_at(self.index.key.len());
        let key = names.iter().zip(self.index.key).map(|(name, kind)| Value::of_bytes(*kind, &cell(name)?));
        Some(Row { key: key.collect::<Option<Key>>()?, cells: others.iter().map(|name| cell(name)).collect() })
    }

    /// The coupon that an index row speaks of.
    fn code_of(&self, row: &Row) -> i64 {
        match self.index.cell_no("code_id") {
            Some(at) => {
                let bytes = row.cells[at].as_deref().unwrap_or_default();
                // The column is not null and a bigint; nought is no coupon's id.
                Value::of_bytes(Type::I64, bytes).map_or(0, Value::as_i64)
            }
            None => row.key[1].as_i64(),
        }
    }

    pub async fn chunk(
        &self,
        conn: &mut PgConnection,
        leaves: &Leaves,
        direction: Direction,
        leaf: Leaf,
        stretch: &Stretch,
    ) -> Result<Chunk, sqlx::Error> {
        let walked = if direction == Direction::Forward { &COUPON } else { &self.index };
        let mut rows = walked.read(conn, leaf, stretch).await?;
        let mut chunk = stretch.chunk(rows.len(), rows.last().map(|row| row.key.clone()));
        let (expected, actual) = match direction {
            Direction::Forward => {
                let expected: Vec<Row> = rows.iter().filter_map(|row| self.project(row)).collect();
                let actual = self.index.find(conn, leaves, expected.iter().map(|row| row.key.clone())).await?;
                (expected, actual)
            }
            Direction::Back => {
                rows.retain(|row| !leaves.retiring(plan("coupon").leaf_i64(self.code_of(row))));
                chunk.skipped = chunk.rows - rows.len() as u64;
                let codes = rows.iter().map(|row| vec![Value::I64(self.code_of(row))]);
                let coupons = COUPON.find(conn, leaves, codes).await?;
                let keys: std::collections::HashSet<&Key> = rows.iter().map(|row| &row.key).collect();
                let expected = coupons.iter().filter_map(|row| self.project(row));
                (expected.filter(|row| keys.contains(&row.key)).collect(), rows)
            }
        };
        if Fold::of(&expected) == Fold::of(&actual) {
            return Ok(chunk);
        }
        chunk.differed = true;
        let (walked, found) = if direction == Direction::Forward { (&expected, &actual) } else { (&actual, &expected) };
        let found: HashMap<&Key, u64> = found.iter().map(|row| (&row.key, row.digest())).collect();
        let differing = walked.iter().filter(|row| found.get(&row.key) != Some(&row.digest()));
        chunk.suspects =
            differing.map(|row| Subject { base: self.code_of(row), index: Some(row.key.clone()) }).collect();
        Ok(chunk)
    }

    pub async fn examine(
        &self,
        conn: &mut PgConnection,
        leaves: &Leaves,
        subjects: &[Subject],
    ) -> Result<Vec<Found>, sqlx::Error> {
        let living: Vec<&Subject> = subjects.iter().filter(|s| !leaves.retiring(COUPON.leaf(&s.base_key()))).collect();
        let coupons = COUPON.find(conn, leaves, living.iter().map(|subject| subject.base_key())).await?;
        let expected: HashMap<i64, Row> =
            coupons.iter().filter_map(|row| Some((row.key[0].as_i64(), self.project(row)?))).collect();
        let keys = living.iter().filter_map(|s| s.index.clone()).chain(expected.values().map(|row| row.key.clone()));
        let actual: HashMap<Key, Row> =
            self.index.find(conn, leaves, keys).await?.into_iter().map(|row| (row.key.clone(), row)).collect();
        let mut found = Vec::new();
        let mut note = |subject: &Subject, kind, key: &Key, columns| {
            let difference = Difference::new(kind, self.index.table, key.clone(), columns);
            found.push(Found { subject: subject.clone(), difference });
        };
        for subject in living {
            let expected = expected.get(&subject.base);
            if let Some(expected) = expected {
                match actual.get(&expected.key).map(|actual| altered(&self.index, expected, actual)) {
                    None => note(subject, Kind::Missing, &expected.key, Vec::new()),
                    Some(columns) if !columns.is_empty() => note(subject, Kind::Altered, &expected.key, columns),
                    Some(_) => {}
                }
            }
            if let Some(row) = subject.index.as_ref().and_then(|key| actual.get(key))
                && expected.is_none_or(|expected| expected.key != row.key)
                && self.code_of(row) == subject.base
            {
                note(subject, Kind::Extra, &row.key, Vec::new());
            }
        }
        Ok(found)
    }

    /// Locks the coupon, looks again, and writes what it says. A coupon that is not there can't be locked, but neither
    /// can one with that code come meanwhile: its index row would meet the extra one.
    pub async fn mend(&self, conn: &mut PgConnection, subject: &Subject) -> Result<Repair, sqlx::Error> {
        let leaf = COUPON.leaf(&subject.base_key());
        if Leaves::load(conn).await?.stands(leaf) {
            sqlx::query(query("coupon/lock").on(&[leaf])).bind(vec![subject.base]).fetch_all(&mut *conn).await?;
        }
        // A fence waits for the lock just taken, so that what is read now holds till the commit.
        let leaves = Leaves::load(conn).await?;
        if leaves.retiring(leaf) {
            return Ok(Repair::Left("its month is being retired"));
        }
        for found in self.examine(conn, &leaves, std::slice::from_ref(subject)).await? {
            let key = found.difference.key;
            let index_leaf = self.index.leaf(&key);
            let statement = match found.difference.kind {
                Kind::Extra => query(self.delete).on(&[index_leaf]),
                _ => query(self.mend).on(&[index_leaf, leaf]),
            };
            bind_keys(sqlx::query(statement), &self.index.key[..1], std::slice::from_ref(&key))
                .bind(vec![subject.base])
                .execute(&mut *conn)
                .await?;
        }
        Ok(Repair::Mended)
    }

    /// Writes the index row of a coupon that was just changed and is locked.
    pub async fn rewrite(&self, conn: &mut PgConnection, leaves: &Leaves, code: i64) -> Result<(), sqlx::Error> {
        let coupons = COUPON.find(conn, leaves, [vec![Value::I64(code)]]).await?;
        let Some(row) = coupons.first().and_then(|coupon| self.project(coupon)) else { return Ok(()) };
        let statement = query(self.mend).on(&[self.index.leaf(&row.key), COUPON.leaf(&coupons[0].key)]);
        bind_keys(sqlx::query(statement), &self.index.key[..1], std::slice::from_ref(&row.key))
            .bind(vec![code])
            .execute(conn)
            .await?;
        Ok(())
    }
}
