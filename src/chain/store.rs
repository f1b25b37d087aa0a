//! The SQL of stores. Lock order: `store` before `api_key`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::{ChainError, NewStore, Store, StoreId, StoreName, StorePatch, StoreState, TimeZone};
use crate::id::StoreNo;
use crate::problem::Code;

#[derive(FromRow)]
struct StoreRow {
    store_no: StoreNo,
    store_id: String,
    name: String,
    time_zone: Option<String>,
    state: i16,
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<StoreRow> for Store {
    type Error = ChainError;

    fn try_from(row: StoreRow) -> Result<Self, ChainError> {
        let bad = |column| ChainError::Inconsistent { table: "store", column, key: row.store_no.to_string() };
        Ok(Store {
            store_no: row.store_no,
            store_id: StoreId::parse(row.store_id).map_err(|_| bad("store_id"))?,
            name: StoreName::parse(row.name).map_err(|_| bad("name"))?,
            time_zone: row.time_zone.as_deref().map(TimeZone::parse).transpose().map_err(|_| bad("time_zone"))?,
            state: StoreState::from_code(row.state).ok_or_else(|| bad("state"))?,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Makes a store, open.
///
/// # Errors
/// `store_exists` when the id is taken.
pub async fn insert_store(conn: &mut PgConnection, new: &NewStore, now: DateTime<Utc>) -> Result<Store, ChainError> {
    let row: Option<StoreRow> = sqlx::query_as(
        "insert into store (created_at, updated_at, store_id, name, time_zone)
         values ($1, $1, $2, $3, $4)
         on conflict do nothing
         returning store_no, store_id, name, time_zone, state, version, created_at, updated_at",
    )
    .bind(now)
    .bind(new.store_id.as_str())
    .bind(new.name.as_str())
    .bind(new.time_zone.map(|zone| zone.zone().name()))
    .fetch_optional(&mut *conn)
    .await?;
    row.ok_or(Code::StoreExists)?.try_into()
}

/// The store that people call so.
pub async fn find_store(conn: &mut PgConnection, store_id: &StoreId) -> Result<Option<Store>, ChainError> {
    let row: Option<StoreRow> = sqlx::query_as(
        "select store_no, store_id, name, time_zone, state, version, created_at, updated_at
         from store
         where store_id = $1",
    )
    .bind(store_id.as_str())
    .fetch_optional(&mut *conn)
    .await?;
    row.map(Store::try_from).transpose()
}

/// What people call the store of this number.
pub async fn find_name(
    conn: &mut PgConnection,
    store_no: StoreNo,
) -> Result<Option<String>, ChainError> {
    let name = sqlx::query_scalar("select store_id from store where store_no = $1")
        .bind(store_no)
        .fetch_optional(conn)
        .await?;
    Ok(name)
}

/// # Errors
/// `store_not_found`.
pub async fn get_store(conn: &mut PgConnection, store_id: &StoreId) -> Result<Store, ChainError> {
    find_store(conn, store_id).await?.ok_or_else(|| Code::StoreNotFound.into())
}

/// Up to `rows_max` stores in the order of their ids, from after `after`.
pub async fn list_stores(
    conn: &mut PgConnection,
    state: Option<StoreState>,
    after: Option<&str>,
    rows_max: i64,
) -> Result<Vec<Store>, ChainError> {
    let rows: Vec<StoreRow> = sqlx::query_as(
        "select store_no, store_id, name, time_zone, state, version, created_at, updated_at
         from store
         where ($1::text is null or store_id > $1) and ($2::smallint is null or state = $2)
         order by store_id
         limit $3",
    )
    .bind(after)
    .bind(state.map(StoreState::code))
    .bind(rows_max)
    .fetch_all(&mut *conn)
    .await?;
    rows.into_iter().map(Store::try_from).collect()
}

/// Changes a store if it has one of the versions (`None`: any).
///
/// # Errors
/// `store_not_found`; `precondition_failed` when it has another version.
pub async fn update_store(
    conn: &mut PgConnection,
    store_id: &StoreId,
    versions: Option<&[i64]>,
    patch: &StorePatch,
    now: DateTime<Utc>,
) -> Result<Store, ChainError> {
    let row: Option<StoreRow> = sqlx::query_as(
        "update store
         set name = coalesce($3, name),
             time_zone = case when $4 then $5 else time_zone end,
             state = coalesce($6, state),
             version = version + 1,
             updated_at = $7
         where store_id = $1 and ($2::bigint[] is null or version = any($2))
         returning store_no, store_id, name, time_zone, state, version, created_at, updated_at",
    )
    .bind(store_id.as_str())
    .bind(versions)
    .bind(patch.name.as_ref().map(StoreName::as_str))
    .bind(patch.time_zone.is_some())
    .bind(patch.time_zone.flatten().map(|zone| zone.zone().name()))
    .bind(patch.state.map(StoreState::code))
    .bind(now)
    .fetch_optional(&mut *conn)
    .await?;
    match row {
        Some(row) => row.try_into(),
        // Only the reason is looked up afterwards, not whether.
        None if find_store(conn, store_id).await?.is_some() => Err(Code::PreconditionFailed.into()),
        None => Err(Code::StoreNotFound.into()),
    }
}
