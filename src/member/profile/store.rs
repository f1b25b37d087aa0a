//! The SQL of profiles, the same for every line but for its own columns.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{
    Arguments, PgConnection, Row as _,
    postgres::{PgArguments, PgRow},
};

use super::{Line, LineRef};
use crate::{
    coupon::decide::millis,
    db::lane::{Read, Target, WriteError, expect_rows},
    id::MemberId,
    member::{
        edit::Editing,
        family::{self, Vault},
        reveal::Opening,
    },
    partition::{Leaf, query},
    secret::Secrets,
};

/// A profile as answers show it: rendered, for whoever asks does not know its type.
#[derive(Debug, Clone)]
pub struct Profile {
    pub version: i32,
    pub json: Bytes,
}

/// A row of a line's table, unmasked.
pub(super) struct Stored<L: Line> {
    pub(super) member_id: MemberId,
    created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) version: i32,
    pub(super) fields: L::Fields,
}

impl<L: Line> Stored<L> {
    /// One that is yet to be written: with the version before the first.
    pub(super) fn new(member_id: MemberId, now: DateTime<Utc>, fields: L::Fields) -> Self {
        Self { member_id, created_at: now, updated_at: now, version: 0, fields }
    }

    fn read(row: &PgRow, secrets: &Secrets) -> Result<Self, sqlx::Error> {
        let member_id = row.try_get("member_id")?;
        Ok(Self {
            member_id,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            version: row.try_get("version")?,
            fields: L::read(row, &Vault { secrets, table: L::TABLE, member_id })?,
        })
    }

    pub(super) fn show(&self) -> Profile {
        #[derive(Serialize)]
        struct Document<S> {
            line: &'static str,
            #[serde(flatten)]
            shown: S,
            version: i32,
            #[serde(serialize_with = "millis")]
            created_at: DateTime<Utc>,
            #[serde(serialize_with = "millis")]
            updated_at: DateTime<Utc>,
        }
        let Self { version, created_at, updated_at, .. } = *self;
        let document = Document { line: L::NAME, shown: L::show(&self.fields), version, created_at, updated_at };
        let json = serde_json::to_vec(&document).expect("a plain struct with string keys always serialises");
        Profile { version, json: json.into() }
    }
}

/// Where rows are asked for.
pub struct Asked<'a> {
    pub conn: &'a mut PgConnection,
    pub secrets: &'a Secrets,
    pub leaf: Leaf,
    pub member_ids: &'a [MemberId],
}

pub(super) async fn list<L: Line>(asked: Asked<'_>) -> Result<Vec<Stored<L>>, sqlx::Error> {
    let sql = query(&format!("{}/find", L::TABLE)).on(&[asked.leaf]);
    let rows = sqlx::query(sql).bind(asked.member_ids).fetch_all(asked.conn).await?;
    rows.iter().map(|row| Stored::read(row, asked.secrets)).collect()
}

/// The row of a member whose own row is locked.
pub(super) async fn find_locked<L: Line>(on: &mut Editing<'_, '_>) -> Result<Option<Stored<L>>, WriteError> {
    let member_id = on.member_id();
    let sql = on.tx.sql(query(&format!("{}/find", L::TABLE)), Target::Leaf(family::leaf_of(L::TABLE, member_id)));
    let row = sqlx::query(sql).bind([member_id]).fetch_optional(on.tx.conn().await?).await?;
    Ok(row.map(|row| Stored::read(&row, on.secrets)).transpose()?)
}

/// Writes a row in place of the one that may be there.
pub(super) async fn put<L: Line>(on: &mut Editing<'_, '_>, row: &Stored<L>) -> Result<(), WriteError> {
    let vault = Vault { secrets: on.secrets, table: L::TABLE, member_id: row.member_id };
    let mut arguments = PgArguments::default();
    let bound = arguments
        .add([row.member_id])
        .and_then(|()| arguments.add([row.created_at]))
        .and_then(|()| arguments.add([row.updated_at]))
        .and_then(|()| arguments.add([row.version]))
        .and_then(|()| L::write(&row.fields, &vault, &mut arguments));
    bound.map_err(sqlx::Error::Encode)?;
    let sql = on.tx.sql(query(&format!("{}/put", L::TABLE)), Target::Leaf(family::leaf_of(L::TABLE, row.member_id)));
    let put = sqlx::query_with(sql, arguments).execute(on.tx.conn().await?).await?;
    expect_rows(L::TABLE, 1, put.rows_affected())
}

/// For [`family::Table`].
pub(super) fn export<'a, L: Line>(
    conn: &'a mut PgConnection,
    secrets: &'a Secrets,
    member_id: MemberId,
) -> BoxFuture<'a, Result<Vec<Value>, WriteError>> {
    Box::pin(async move {
        let leaf = family::leaf_of(L::TABLE, member_id);
        let rows = list::<L>(Asked { conn, secrets, leaf, member_ids: &[member_id] }).await?;
        let value = |row: &Stored<L>| {
            let mut value = json!(row.fields);
            value["created_at"] = json!(row.created_at);
            value["updated_at"] = json!(row.updated_at);
            value
        };
        Ok(rows.iter().map(value).collect())
    })
}

/// For [`family::Table`].
pub(super) fn reveal<'a, L: Line>(on: &'a mut Opening<'_, '_>) -> BoxFuture<'a, Result<Value, WriteError>> {
    Box::pin(async move {
        let member_id = on.member_id();
        let sql = on.tx.sql(query(&format!("{}/find", L::TABLE)), Target::Leaf(family::leaf_of(L::TABLE, member_id)));
        let row = sqlx::query(sql).bind([member_id]).fetch_optional(on.tx.conn().await?).await?;
        let row = row.map(|row| Stored::<L>::read(&row, on.secrets)).transpose()?;
        Ok(row.iter().map(|row| L::reveal(&row.fields)).collect())
    })
}

/// Finds profiles of any line.
pub struct FindProfile {
    pub secrets: Arc<Secrets>,
}

impl Read for FindProfile {
    type Key = (LineRef, MemberId);
    type Row = Profile;

    fn leaf(&self, (line, member_id): &Self::Key) -> Leaf {
        family::leaf_of(line.0.table(), *member_id)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[Self::Key],
    ) -> Result<HashMap<Self::Key, Profile>, sqlx::Error> {
        // A leaf is of one table, so all keys are of one line.
        let Some(&(line, _)) = keys.first() else { return Ok(HashMap::new()) };
        let member_ids: Vec<MemberId> = keys.iter().map(|(_, member_id)| *member_id).collect();
        let asked = Asked { conn, secrets: &self.secrets, leaf, member_ids: &member_ids };
        let found = line.0.fetch(asked).await?;
        Ok(found.into_iter().map(|(member_id, profile)| ((line, member_id), profile)).collect())
    }
}
