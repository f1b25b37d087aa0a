//! The list of encrypted columns: what rotation walks and a test holds the schema against. It is that of the core and of
//! all tables of the member's family that say they have such columns, those of business lines too.
//!
//! A table in it has three statements in `sql/queries/rotate`, where `id` is the number that its values are bound to
//! (`Secrets::encrypt`), by which the table is also split:
//!
//! - `<table>_walk`: (id after which, rows) → (id, ids of the keys used in the row, as `int[]`), in the order of id, no
//!   id halved (`with ties`);
//! - `<table>_lock`: (ids) → (id, the rest of the primary key as text, the encrypted columns as `bytea[]`), locked in
//!   the order of the primary key;
//! - `<table>_update`: (ids, rests, one `bytea[]` a column), which changes nothing but those columns.

use std::sync::LazyLock;

use crate::{
    member::family,
    partition::{Leaf, Plan, Query, plans, queries, query},
};

/// A table with encrypted columns.
#[derive(Debug)]
pub struct Encrypted {
    pub table: &'static str,
    /// As in `<table>_lock`.
    pub columns: &'static [&'static str],
    /// Whose rows belong to members, by whose id they are split and bound. The member is locked before its rows.
    pub of_members: bool,
}

pub static ENCRYPTED: LazyLock<Vec<Encrypted>> = LazyLock::new(|| {
    let core: [(&str, &[&str]); 2] =
        [("member", &["phone", "email", "name", "birthday"]), ("member_auth", &["identifier"])];
    let family = family::tables().into_iter().filter(|table| !table.sealed.is_empty());
    let of_members = |(table, columns)| Encrypted { table, columns, of_members: true };
    core.into_iter().chain(family.map(|table| (table.name, table.sealed))).map(of_members).collect()
});

/// Whether every table has its statements and each names all columns: without them its rows would keep a key that is
/// dropped.
///
/// # Errors
/// What a table lacks.
pub fn check() -> Result<(), String> {
    for one in ENCRYPTED.iter() {
        for step in ["walk", "lock", "update"] {
            let name = format!("rotate/{}_{step}", one.table);
            let Some(statement) = queries().find(|query| query.name == name) else {
                return Err(format!("{} has encrypted columns, but there is no sql/queries/{name}.sql", one.table));
            };
            if let Some(column) = one.columns.iter().find(|column| !statement.parent().contains(**column)) {
                return Err(format!("sql/queries/{name}.sql leaves out {column}, which is encrypted"));
            }
        }
    }
    Ok(())
}

/// The pieces of jobs' files, encrypted too, which rotation has statements of its own for (`rotate::pieces`).
pub const PIECES: (&str, &str) = ("job_chunk", "sealed");

/// Columns of bytes that are not encrypted, each with its reason.
pub static PLAIN: &[(&str, &str, &str)] = &[("api_key", "secret_sha256", "a hash, which shows nothing")];

impl Encrypted {
    pub(super) fn walk(&self) -> &'static Query {
        query(&format!("rotate/{}_walk", self.table))
    }

    pub(super) fn lock(&self) -> &'static Query {
        query(&format!("rotate/{}_lock", self.table))
    }

    pub(super) fn update(&self) -> &'static Query {
        query(&format!("rotate/{}_update", self.table))
    }

    /// The pieces to walk: the leaves, or the whole of a table that has none.
    pub(super) fn pieces(&self) -> Vec<Option<Leaf>> {
        match plans().get(self.table) {
            Some(plan) => leaves(plan).into_iter().map(Some).collect(),
            None => vec![None],
        }
    }
}

pub(super) fn leaves(plan: &'static Plan) -> Vec<Leaf> {
    assert!(plan.range().is_none(), "{} is split by time: its encrypted rows end with their leaves", plan.table);
    plan.hash_leaves().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::testdb::TestDb;

    #[tokio::test]
    async fn every_column_of_bytes_is_rotated_or_said_to_be_plain() {
        let mut conn = TestDb::new().await.connect().await;
        let found: Vec<(String, String)> = sqlx::query_as(
            "select c.table_name::text, c.column_name::text
             from information_schema.columns c
             join pg_class t on t.oid = format('%I.%I', c.table_schema, c.table_name)::regclass and not t.relispartition
             where c.table_schema = 'public' and c.data_type = 'bytea' and c.table_name !~ '^_sqlx'
             order by 1, 2",
        )
        .fetch_all(&mut conn)
        .await
        .unwrap();
        let mut listed: Vec<(String, String)> = ENCRYPTED
            .iter()
            .flat_map(|one| one.columns.iter().map(|column| (one.table.to_owned(), (*column).to_owned())))
            .chain(PLAIN.iter().map(|(table, column, _)| ((*table).to_owned(), (*column).to_owned())))
            .chain([(PIECES.0.to_owned(), PIECES.1.to_owned())])
            .collect();
        listed.sort();
        assert_eq!(found, listed);
    }

    #[test]
    fn the_statements_of_a_table_name_all_its_columns() {
        assert_eq!(check(), Ok(()));
    }
}
