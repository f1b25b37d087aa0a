//! The SQL of roles.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::FromRow;

use crate::{
    db::lane::{Target, Tx, WriteError, expect_rows},
    id::MemberId,
    member::family::{self, Row, Table},
    partition::query,
    secret::Secrets,
};

const TABLE: &str = "member_role";

/// A row of `member_role`.
#[derive(Debug, Clone, FromRow)]
pub struct RoleRow {
    pub member_id: MemberId,
    pub granted_at: DateTime<Utc>,
    pub system: String,
    pub role: String,
    pub granted_by: String,
}

impl Row for RoleRow {
    const TABLE: &'static str = TABLE;
    const SEALED: &'static [&'static str] = &[];

    fn member_id(&self) -> MemberId {
        self.member_id
    }

    fn export(&self, _: &Secrets) -> Result<Value, String> {
        Ok(json!({ "system": self.system, "role": self.role, "granted_at": self.granted_at }))
    }
}

inventory::submit! { Table::of::<RoleRow>() }

/// Writes a role that the member has not.
pub(super) async fn insert_role(tx: &mut Tx<'_>, row: &RoleRow) -> Result<(), WriteError> {
    let sql = tx.sql(query("member_role/insert"), Target::Leaf(family::leaf_of(TABLE, row.member_id)));
    let inserted = sqlx::query(sql)
        .bind([row.member_id])
        .bind([row.granted_at])
        .bind([row.system.as_str()])
        .bind([row.role.as_str()])
        .bind([row.granted_by.as_str()])
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, 1, inserted.rows_affected())
}

/// Deletes a role that the member has.
pub(super) async fn delete_role(tx: &mut Tx<'_>, row: &RoleRow) -> Result<(), WriteError> {
    let sql = tx.sql(query("member_role/delete"), Target::Leaf(family::leaf_of(TABLE, row.member_id)));
    let deleted = sqlx::query(sql)
        .bind([row.member_id])
        .bind([row.system.as_str()])
        .bind([row.role.as_str()])
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, 1, deleted.rows_affected())
}
