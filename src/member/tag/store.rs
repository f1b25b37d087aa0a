//! The SQL of tags.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::FromRow;

use crate::{
    db::lane::{Target, Tx, WriteError, column, expect_rows},
    id::MemberId,
    member::family::{self, Row, Table},
    partition::query,
    secret::Secrets,
};

const TABLE: &str = "member_tag";

/// A row of `member_tag`.
#[derive(Debug, Clone, FromRow)]
pub struct TagRow {
    pub member_id: MemberId,
    pub tagged_at: DateTime<Utc>,
    pub tag: String,
    pub tagged_by: String,
}

impl Row for TagRow {
    const TABLE: &'static str = TABLE;
    const SEALED: &'static [&'static str] = &[];

    fn member_id(&self) -> MemberId {
        self.member_id
    }

    fn export(&self, _: &Secrets) -> Result<Value, String> {
        Ok(json!({ "tag": self.tag, "tagged_at": self.tagged_at }))
    }
}

inventory::submit! { Table::of::<TagRow>() }

/// Writes tags that the member has not; all are of one member.
pub(super) async fn insert_tags(tx: &mut Tx<'_>, rows: &[TagRow]) -> Result<(), WriteError> {
    let Some(first) = rows.first() else { return Ok(()) };
    let sql = tx.sql(query("member_tag/insert"), Target::Leaf(family::leaf_of(TABLE, first.member_id)));
    let inserted = sqlx::query(sql)
        .bind(column(rows, |row| row.member_id))
        .bind(column(rows, |row| row.tagged_at))
        .bind(column(rows, |row| row.tag.clone()))
        .bind(column(rows, |row| row.tagged_by.clone()))
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, rows.len(), inserted.rows_affected())
}

/// Deletes tags that the member has.
pub(super) async fn delete_tags(tx: &mut Tx<'_>, member_id: MemberId, tags: &[&str]) -> Result<(), WriteError> {
    if tags.is_empty() {
        return Ok(());
    }
    let sql = tx.sql(query("member_tag/delete"), Target::Leaf(family::leaf_of(TABLE, member_id)));
    let deleted = sqlx::query(sql).bind(vec![member_id; tags.len()]).bind(tags).execute(tx.conn().await?).await?;
    expect_rows(TABLE, tags.len(), deleted.rows_affected())
}
