//! The SQL of stores. Lock order: `store` before `api_key`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{ChainError, NewStore, Store, StoreId, StoreName, StorePatch, StoreState, TimeZone};
use crate::id::StoreNo;
use crate::problem::Code;

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
    let row = sqlx::query_file_as!(
        StoreRow,
        "sql/queries/store/insert.sql",
        now,
        new.store_id.as_str(),
        new.name.as_str(),
        new.time_zone.map(|zone| zone.zone().name()),
    );
    row.fetch_optional(&mut *conn).await?.ok_or(Code::StoreExists)?.try_into()
}

/// The store that people call so.
pub async fn find_store(conn: &mut PgConnection, store_id: &StoreId) -> Result<Option<Store>, ChainError> {
    let row = sqlx::query_file_as!(StoreRow, "sql/queries/store/find.sql", store_id.as_str());
    row.fetch_optional(&mut *conn).await?.map(Store::try_from).transpose()
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
    let state = state.map(StoreState::code);
    let rows = sqlx::query_file_as!(StoreRow, "sql/queries/store/list.sql", after, state, rows_max);
    rows.fetch_all(&mut *conn).await?.into_iter().map(Store::try_from).collect()
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
    let row = sqlx::query_file_as!(
        StoreRow,
        "sql/queries/store/update.sql",
        store_id.as_str(),
        versions,
        patch.name.as_ref().map(StoreName::as_str),
        patch.time_zone.is_some(),
        patch.time_zone.flatten().map(|zone| zone.zone().name()),
        patch.state.map(StoreState::code),
        now,
    );
    match row.fetch_optional(&mut *conn).await? {
        Some(row) => row.try_into(),
        // Only the reason is looked up afterwards, not whether.
        None if find_store(conn, store_id).await?.is_some() => Err(Code::PreconditionFailed.into()),
        None => Err(Code::StoreNotFound.into()),
    }
}
