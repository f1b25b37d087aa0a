//! The SQL of the identifiers that a member has. The member's row is locked by whoever writes here.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::super::{
    Source,
    key::Identifier,
    store::{key_leaf, keys_of},
};
use crate::{
    db::lane::{Read, Target, Tx, WriteError, expect_rows},
    id::MemberId,
    partition::{Leaf, plan, query},
    secret::Secrets,
};

const TABLE: &str = "member_auth";

fn auth_leaf(member_id: MemberId) -> Leaf {
    plan(TABLE).leaf_i64(member_id.get())
}

/// A row of `member_auth`, encrypted as it stands there.
#[derive(Debug, Clone, FromRow)]
pub(in crate::member) struct AuthRow {
    pub(in crate::member) member_id: MemberId,
    pub(in crate::member) bound_at: DateTime<Utc>,
    pub(in crate::member) verified_at: Option<DateTime<Utc>>,
    pub(in crate::member) key: Uuid,
    pub(in crate::member) kind: i16,
    pub(in crate::member) source: i16,
    pub(in crate::member) identifier: Vec<u8>,
}

/// The identifiers of members that stand in `member_auth`.
pub(in crate::member) struct FindAuths;

impl Read for FindAuths {
    type Key = MemberId;
    type Row = Vec<AuthRow>;

    fn leaf(&self, member_id: &MemberId) -> Leaf {
        auth_leaf(*member_id)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        member_ids: &[MemberId],
    ) -> Result<HashMap<MemberId, Self::Row>, sqlx::Error> {
        let rows: Vec<AuthRow> =
            sqlx::query_as(query("member_auth/list").on(&[leaf])).bind(member_ids).fetch_all(conn).await?;
        let mut found: HashMap<MemberId, Vec<AuthRow>> = HashMap::new();
        for row in rows {
            found.entry(row.member_id).or_default().push(row);
        }
        Ok(found)
    }
}

/// The identifiers of one member that stand in `member_auth`.
pub(in crate::member) async fn find_auths(tx: &mut Tx<'_>, member_id: MemberId) -> Result<Vec<AuthRow>, WriteError> {
    let sql = tx.sql(query("member_auth/list"), Target::Leaf(auth_leaf(member_id)));
    Ok(sqlx::query_as(sql).bind([member_id]).fetch_all(tx.conn().await?).await?)
}

/// Writes an identifier down, whose keys are claimed. Gives its key.
pub(in crate::member) async fn insert_auth(
    tx: &mut Tx<'_>,
    secrets: &Secrets,
    member_id: MemberId,
    identifier: &Identifier,
    bound_at: DateTime<Utc>,
    verified_at: Option<DateTime<Utc>>,
    source: Source,
) -> Result<Uuid, WriteError> {
    let Some(row) = keys_of(secrets, identifier).next() else {
        return Err(WriteError::Inconsistent("there is no key for the index of identifiers".to_owned()));
    };
    let sealed = secrets.encrypt(TABLE, "identifier", member_id.get(), identifier.normalised());
    let sql = tx.sql(query("member_auth/insert"), Target::Leaf(auth_leaf(member_id)));
    let inserted = sqlx::query(sql)
        .bind([member_id])
        .bind([bound_at])
        .bind([row.key])
        .bind([row.version])
        .bind([row.kind as i16])
        .bind([source.number()])
        .bind([sealed])
        .bind([verified_at])
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, 1, inserted.rows_affected())?;
    Ok(row.key)
}

/// Deletes identifiers by their keys in `member_auth`.
pub(in crate::member) async fn delete_auths(
    tx: &mut Tx<'_>,
    member_id: MemberId,
    keys: Vec<Uuid>,
) -> Result<(), WriteError> {
    let sql = tx.sql(query("member_auth/delete"), Target::Leaf(auth_leaf(member_id)));
    let deleted = sqlx::query(sql).bind(vec![member_id; keys.len()]).bind(&keys).execute(tx.conn().await?).await?;
    expect_rows(TABLE, keys.len(), deleted.rows_affected())
}

/// Writes down when somebody proved to have an identifier.
pub(in crate::member) async fn update_auth_verified(
    tx: &mut Tx<'_>,
    member_id: MemberId,
    key: Uuid,
    verified_at: DateTime<Utc>,
) -> Result<(), WriteError> {
    let sql = tx.sql(query("member_auth/update_verified"), Target::Leaf(auth_leaf(member_id)));
    let updated = sqlx::query(sql).bind([member_id]).bind([key]).bind([verified_at]).execute(tx.conn().await?).await?;
    expect_rows(TABLE, 1, updated.rows_affected())
}

/// Takes from a member whatever rows these keys have. They are of every known version, and a version that is being made
/// or deleted may have none.
pub(in crate::member) async fn release_keys(
    tx: &mut Tx<'_>,
    member_id: MemberId,
    keys: Vec<Uuid>,
) -> Result<(), WriteError> {
    let mut deleted = 0;
    for (target, keys) in tx.targets(keys, |key| (key_leaf(*key), *key)) {
        let sql = tx.sql(query("member_key/delete"), target);
        deleted += sqlx::query(sql)
            .bind(&keys)
            .bind(vec![member_id; keys.len()])
            .execute(tx.conn().await?)
            .await?
            .rows_affected();
    }
    if deleted == 0 {
        return Err(WriteError::Inconsistent(format!("member_key has no row of an identifier of member {member_id}")));
    }
    Ok(())
}

/// Gives to another member whatever rows these keys have. Both members are locked.
pub(in crate::member) async fn move_keys(
    tx: &mut Tx<'_>,
    now: DateTime<Utc>,
    (from, to): (MemberId, MemberId),
    keys: Vec<Uuid>,
) -> Result<(), WriteError> {
    let mut moved = 0;
    for (target, keys) in tx.targets(keys, |key| (key_leaf(*key), *key)) {
        let sql = tx.sql(query("member_key/move"), target);
        let rows = sqlx::query(sql)
            .bind(&keys)
            .bind(vec![from; keys.len()])
            .bind(vec![to; keys.len()])
            .bind(vec![now; keys.len()])
            .execute(tx.conn().await?)
            .await?;
        moved += rows.rows_affected();
    }
    if moved == 0 {
        return Err(WriteError::Inconsistent(format!("member_key has no row of an identifier of member {from}")));
    }
    Ok(())
}
