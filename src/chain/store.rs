//! The SQL of stores. Lock order: `region`, `store`, `register`, `api_key`.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::region_store::list_standings;
use super::{
    ChainError, City, NewStore, RegionId, RegisterPolicy, RegistryState, Store, StoreId, StoreName, StorePatch,
    StorePhone, StoreState, StreetAddress, TimeZone, check_reserved,
};
use crate::id::{Day, StoreNo};
use crate::problem::Code;

struct StoreRow {
    store_no: StoreNo,
    store_id: String,
    name: String,
    time_zone: Option<String>,
    state: i16,
    region_id: Option<String>,
    city: Option<String>,
    address: Option<String>,
    phone: Option<String>,
    opened_on: Option<NaiveDate>,
    closed_on: Option<NaiveDate>,
    registers: i16,
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
            region_id: row.region_id.map(RegionId::parse).transpose().map_err(|_| bad("region_id"))?,
            city: row.city.map(City::parse).transpose().map_err(|_| bad("city"))?,
            address: row.address.map(StreetAddress::parse).transpose().map_err(|_| bad("address"))?,
            phone: row.phone.map(StorePhone::parse).transpose().map_err(|_| bad("phone"))?,
            opened_on: row.opened_on.map(Day::from_date),
            closed_on: row.closed_on.map(Day::from_date),
            registers: RegisterPolicy::from_code(row.registers).ok_or_else(|| bad("registers"))?,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Makes a store, open.
///
/// # Errors
/// `store_exists` when the id is taken, `region_not_found`, `region_retired`.
pub async fn insert_store(conn: &mut PgConnection, new: &NewStore, now: DateTime<Utc>) -> Result<Store, ChainError> {
    check_reserved("store_id", new.store_id.as_str())?;
    let row = sqlx::query_file_as!(
        StoreRow,
        "sql/queries/store/insert.sql",
        now,
        new.store_id.as_str(),
        new.name.as_str(),
        new.time_zone.map(|zone| zone.zone().name()),
        new.region_id.as_ref().map(RegionId::as_str),
        new.city.as_ref().map(City::as_str),
        new.address.as_ref().map(StreetAddress::as_str),
        new.phone.as_ref().map(StorePhone::as_str),
        new.opened_on.map(Day::to_date),
        new.registers.unwrap_or(RegisterPolicy::Open).code(),
    );
    match row.fetch_optional(&mut *conn).await? {
        Some(row) => row.try_into(),
        // Only the reason is looked up afterwards, not whether.
        None if find_store(conn, &new.store_id).await?.is_some() => Err(Code::StoreExists.into()),
        None => Err(why_no_region(conn, new.region_id.as_ref()).await?),
    }
}

/// Why a region takes no store.
async fn why_no_region(conn: &mut PgConnection, region_id: Option<&RegionId>) -> Result<ChainError, ChainError> {
    let Some(region_id) = region_id else { return Ok(Code::StoreExists.into()) };
    let standings = list_standings(conn, vec![region_id.to_string()]).await?;
    let code = match standings.get(region_id.as_str()) {
        None => Code::RegionNotFound,
        // Active by now: it was not when it counted.
        Some(RegistryState::Active | RegistryState::Retired) => Code::RegionRetired,
    };
    Ok(code.into())
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

/// Which stores a list shows.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct StoreFilter {
    pub state: Option<StoreState>,
    /// With all regions below it.
    pub region_id: Option<RegionId>,
    /// What the id begins with.
    pub prefix: Option<StoreId>,
}

/// Up to `rows_max` stores in the order of their ids, from after `after`.
pub async fn list_stores(
    conn: &mut PgConnection,
    filter: &StoreFilter,
    after: Option<&str>,
    rows_max: i64,
) -> Result<Vec<Store>, ChainError> {
    let rows = sqlx::query_file_as!(
        StoreRow,
        "sql/queries/store/list.sql",
        after,
        filter.state.map(StoreState::code),
        filter.region_id.as_ref().map(RegionId::as_str),
        filter.prefix.as_ref().map(StoreId::as_str),
        rows_max,
    );
    rows.fetch_all(&mut *conn).await?.into_iter().map(Store::try_from).collect()
}

/// Changes a store if it has one of the versions (`None`: any). `today` is the business day on which it closes, if the
/// patch closes it.
///
/// # Errors
/// `store_not_found`; `precondition_failed` when it has another version; `region_not_found`, `region_retired`.
pub async fn update_store(
    conn: &mut PgConnection,
    store_id: &StoreId,
    versions: Option<&[i64]>,
    patch: &StorePatch,
    now: DateTime<Utc>,
    today: Day,
) -> Result<Store, ChainError> {
    let row = sqlx::query_file_as!(
        StoreRow,
        "sql/queries/store/update.sql",
        store_id.as_str(),
        versions,
        now,
        today.to_date(),
        patch.name.as_ref().map(StoreName::as_str),
        patch.time_zone.is_some(),
        patch.time_zone.flatten().map(|zone| zone.zone().name()),
        patch.state.map(StoreState::code),
        patch.region_id.is_some(),
        patch.region_id.iter().flatten().next().map(RegionId::as_str),
        patch.city.is_some(),
        patch.city.iter().flatten().next().map(City::as_str),
        patch.address.is_some(),
        patch.address.iter().flatten().next().map(StreetAddress::as_str),
        patch.phone.is_some(),
        patch.phone.iter().flatten().next().map(StorePhone::as_str),
        patch.opened_on.is_some(),
        patch.opened_on.flatten().map(Day::to_date),
        patch.registers.map(RegisterPolicy::code),
    );
    if let Some(row) = row.fetch_optional(&mut *conn).await? {
        return row.try_into();
    }
    // Only the reason is looked up afterwards, not whether.
    let store = get_store(conn, store_id).await?;
    if versions.is_some_and(|versions| !versions.contains(&store.version.into())) {
        return Err(Code::PreconditionFailed.into());
    }
    match patch.region_id.as_ref().and_then(Option::as_ref) {
        Some(region_id) => Err(why_no_region(conn, Some(region_id)).await?),
        // It had another version a moment ago.
        None => Err(Code::PreconditionFailed.into()),
    }
}
