//! Rows as they are compared: by key, and by the bytes that PostgreSQL sends for the other columns.
//!
//! A table's [`Side`] names its key, its columns and the three statements that read it: a walk in key order along one
//! leaf, the rows of some of its pages, and a look-up by keys. All give the same columns in the same order, key first. Bytes of the binary protocol are
//! equal exactly where values of these types are (integers, uuid, timestamptz, text, bytea), so nothing is decoded that
//! need not be, and columns of different tables can be compared as they come.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Postgres, Row as _, ValueRef, postgres::PgArguments, postgres::PgRow};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::{
    leaves::Leaves,
    sample::{Stretch, page_rows},
};
use crate::partition::{Leaf, plan, query};

/// One column of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    I64(i64),
    Uuid(Uuid),
}

/// A whole key, or the part of it that a look-up goes by.
pub type Key = Vec<Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    I64,
    Uuid,
}

/// The bytes of a column; None is null.
pub(super) type Cell = Option<Box<[u8]>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub key: Key,
    /// The columns after the key.
    pub cells: Vec<Cell>,
}

/// One table of a pair.
#[derive(Debug)]
pub(super) struct Side {
    pub table: &'static str,
    pub key: &'static [Type],
    /// All columns that are compared, key first.
    pub columns: &'static [&'static str],
    pub walk: &'static str,
    pub pages: &'static str,
    pub find: &'static str,
    /// How many columns of the key a look-up goes by.
    pub find_by: usize,
}

impl Value {
    pub(super) fn of_bytes(kind: Type, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            Type::I64 => Self::I64(i64::from_be_bytes(bytes.try_into().ok()?)),
            Type::Uuid => Self::Uuid(Uuid::from_slice(bytes).ok()?),
        })
    }

    pub(super) fn as_i64(self) -> i64 {
        match self {
            Self::I64(value) => value,
            Self::Uuid(_) => panic!("a uuid stands where a number was declared: a mistake in a table of this module"),
        }
    }

    fn as_uuid(self) -> Uuid {
        match self {
            Self::Uuid(value) => value,
            Self::I64(_) => panic!("a number stands where a uuid was declared: a mistake in a table of this module"),
        }
    }

    fn leaf(self, table: &str) -> Leaf {
        match self {
            Self::I64(value) => plan(table).leaf_i64(value),
            Self::Uuid(value) => plan(table).leaf_uuid(value),
        }
    }
}

/// How a key stands in a report: ids as digits; a blind key is no personal data, and it is how the row is found.
pub(super) fn key_text(key: &[Value]) -> String {
    let parts = key.iter().map(|value| match value {
        Value::I64(value) => value.to_string(),
        Value::Uuid(value) => value.to_string(),
    });
    parts.collect::<Vec<_>>().join(",")
}

impl Row {
    /// The digest of key and columns: lengths lead, so that bytes can't run from one column into the next.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        for value in &self.key {
            match value {
                Value::I64(value) => hash.update(&value.to_be_bytes()),
                Value::Uuid(value) => hash.update(value.as_bytes()),
            }
        }
        for cell in &self.cells {
            match cell {
                None => hash.update(&u32::MAX.to_be_bytes()),
                Some(bytes) => {
                    hash.update(&(bytes.len() as u32).to_be_bytes());
                    hash.update(bytes);
                }
            }
        }
        hash.digest()
    }

    fn read(side: &Side, row: &PgRow) -> Result<Self, sqlx::Error> {
        let mut key = Vec::with_capacity(side.key.len());
        for (at, kind) in side.key.iter().enumerate() {
            let bytes = row.try_get_raw(at)?;
            let bytes = bytes.as_bytes().map_err(sqlx::Error::Decode)?;
            let value = Value::of_bytes(*kind, bytes);
            key.push(value.ok_or_else(|| sqlx::Error::Decode(format!("{} has another key", side.table).into()))?);
        }
        let cells = (side.key.len()..row.len()).map(|at| cell(row, at)).collect::<Result<_, _>>()?;
        Ok(Self { key, cells })
    }
}

pub(super) fn cell(row: &PgRow, at: usize) -> Result<Cell, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(None);
    }
    Ok(Some(value.as_bytes().map_err(sqlx::Error::Decode)?.into()))
}

/// What a set of rows amounts to, whatever their order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fold {
    count: u64,
    sum: u64,
    xor: u64,
}

impl Fold {
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        rows.into_iter().fold(Self::default(), |fold, row| {
            let digest = row.digest();
            // A sum and an exclusive or: two changes that hide each other in one show in the other.
            Self { count: fold.count + 1, sum: fold.sum.wrapping_add(digest), xor: fold.xor ^ digest.rotate_left(17) }
        })
    }
}

/// The names of the columns that differ. Empty when the rows are equal.
pub(super) fn altered(side: &Side, expected: &Row, actual: &Row) -> Vec<&'static str> {
    let names = &side.columns[side.key.len()..];
    let pairs = expected.cells.iter().zip(&actual.cells);
    pairs.zip(names).filter(|((expected, actual), _)| expected != actual).map(|(_, name)| *name).collect()
}

pub(super) type Bound<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Binds keys as one array a column.
pub(super) fn bind_keys<'q>(mut statement: Bound<'q>, kinds: &[Type], keys: &[Key]) -> Bound<'q> {
    for (at, kind) in kinds.iter().enumerate() {
        statement = match kind {
            Type::I64 => statement.bind(keys.iter().map(|key| key[at].as_i64()).collect::<Vec<_>>()),
            Type::Uuid => statement.bind(keys.iter().map(|key| key[at].as_uuid()).collect::<Vec<_>>()),
        };
    }
    statement
}

impl Side {
    pub fn leaf(&self, key: &[Value]) -> Leaf {
        key[0].leaf(self.table)
    }

    /// Where a column stands among the cells.
    pub fn cell_no(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|name| *name == column)?.checked_sub(self.key.len())
    }

    /// The rows of a stretch of a leaf.
    pub async fn read(&self, conn: &mut PgConnection, leaf: Leaf, stretch: &Stretch) -> Result<Vec<Row>, sqlx::Error> {
        let (after, limit) = match stretch {
            Stretch::After(after, limit) => (after.as_ref(), *limit),
            Stretch::Pages(pages) => {
                let rows = page_rows(conn, query(self.pages).on(&[leaf]), pages).await?;
                return rows.iter().map(|row| Row::read(self, row)).collect();
            }
            Stretch::Rules(_) => unreachable!("rules are drawn where they are counted, and nothing else is"),
        };
        let mut statement = sqlx::query(query(self.walk).on(&[leaf]));
        for (at, kind) in self.key.iter().enumerate() {
            let value = after.map(|key| key[at]);
            statement = match kind {
                Type::I64 => statement.bind(value.map(Value::as_i64)),
                Type::Uuid => statement.bind(value.map(Value::as_uuid)),
            };
        }
        let rows = statement.bind(limit).fetch_all(conn).await?;
        rows.iter().map(|row| Row::read(self, row)).collect()
    }

    /// The rows of these keys, leaf by leaf. Keys of leaves that do not stand find nothing.
    pub async fn find(
        &self,
        conn: &mut PgConnection,
        leaves: &Leaves,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let mut by_leaf: BTreeMap<Leaf, Vec<Key>> = BTreeMap::new();
        for key in keys {
            by_leaf.entry(self.leaf(&key)).or_default().push(key);
        }
        let mut found = Vec::new();
        for (leaf, mut keys) in by_leaf {
            if !leaves.stands(leaf) {
                continue;
            }
            keys.sort_unstable();
            keys.dedup();
            let statement = sqlx::query(query(self.find).on(&[leaf]));
            let rows = bind_keys(statement, &self.key[..self.find_by], &keys).fetch_all(&mut *conn).await?;
            for row in &rows {
                found.push(Row::read(self, row)?);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: i64, cells: &[Option<&str>]) -> Row {
        let cells = cells.iter().map(|cell| cell.map(|text| text.as_bytes().into())).collect();
        Row { key: vec![Value::I64(key)], cells }
    }

    #[test]
    fn bytes_do_not_run_from_one_column_into_the_next() {
        let rows = [
            row(1, &[Some("ab"), Some("c")]),
            row(1, &[Some("a"), Some("bc")]),
            row(1, &[Some("abc"), None]),
            row(1, &[None, Some("abc")]),
            row(1, &[Some(""), Some("abc")]),
            row(2, &[Some("ab"), Some("c")]),
        ];
        for (at, one) in rows.iter().enumerate() {
            for other in &rows[at + 1..] {
                assert_ne!(one.digest(), other.digest(), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_fold_does_not_depend_on_order_and_sees_each_row() {
        let rows: Vec<Row> = (0..100).map(|key| row(key, &[Some("x"), None])).collect();
        let whole = Fold::of(&rows);
        assert_eq!(whole, Fold::of(rows.iter().rev()));
        assert_ne!(whole, Fold::of(&rows[1..]));
        let mut changed = rows.clone();
        changed[7].cells[1] = Some(b"y".as_slice().into());
        assert_ne!(whole, Fold::of(&changed));
        let twice = [&rows[..], &rows[..1], &rows[..1]].concat();
        assert_ne!(whole, Fold::of(&twice), "a row and its double must not vanish in the exclusive or");
    }
}
