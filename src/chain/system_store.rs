//! The SQL of external systems.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    ChainError, IdShape, RegistryState,
    system::{NewSystem, SYSTEMS_MAX, System, SystemId, SystemName, SystemPatch},
};
use crate::problem::{Code, Refusal};

struct SystemRow {
    system: String,
    name: String,
    id_shape: i16,
    state: i16,
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<SystemRow> for System {
    type Error = ChainError;

    fn try_from(row: SystemRow) -> Result<Self, ChainError> {
        let bad = |column| ChainError::Inconsistent { table: "external_system", column, key: row.system.clone() };
        Ok(System {
            name: SystemName::parse(row.name.as_str()).map_err(|_| bad("name"))?,
            id_shape: IdShape::from_code(row.id_shape).ok_or_else(|| bad("id_shape"))?,
            state: RegistryState::from_code(row.state).ok_or_else(|| bad("state"))?,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
            system: SystemId::parse(row.system.as_str()).map_err(|_| bad("system"))?,
        })
    }
}

/// Up to `rows_max` systems in the order of their names, from after `after`.
pub async fn list_systems(
    conn: &mut PgConnection,
    after: Option<&str>,
    rows_max: i64,
) -> Result<Vec<System>, ChainError> {
    let rows = sqlx::query_file_as!(SystemRow, "sql/queries/external_system/list.sql", after, rows_max);
    rows.fetch_all(conn).await?.into_iter().map(System::try_from).collect()
}

/// # Errors
/// `system_not_found`.
pub async fn get_system(conn: &mut PgConnection, system: &SystemId) -> Result<System, ChainError> {
    let row = sqlx::query_file_as!(SystemRow, "sql/queries/external_system/find.sql", system.as_str());
    row.fetch_optional(conn).await?.ok_or(Code::SystemNotFound)?.try_into()
}

/// Makes a system, active.
///
/// # Errors
/// `system_exists`; `invalid_field` when there are [`SYSTEMS_MAX`].
pub async fn insert_system(conn: &mut PgConnection, new: &NewSystem, now: DateTime<Utc>) -> Result<System, ChainError> {
    let row = sqlx::query_file_as!(
        SystemRow,
        "sql/queries/external_system/insert.sql",
        now,
        new.system.as_str(),
        new.name.as_str(),
        new.id_shape.code(),
        SYSTEMS_MAX,
    );
    if let Some(row) = row.fetch_optional(&mut *conn).await? {
        return row.try_into();
    }
    // Only the reason is looked up afterwards, not whether.
    match get_system(conn, &new.system).await {
        Ok(_) => Err(Code::SystemExists.into()),
        Err(_) => Err(Refusal::invalid_field("system", format!("there are {SYSTEMS_MAX} systems already")).into()),
    }
}

/// Changes a system if it has one of the versions (`None`: any).
///
/// # Errors
/// `system_not_found`, `precondition_failed`.
pub async fn update_system(
    conn: &mut PgConnection,
    system: &SystemId,
    versions: Option<&[i64]>,
    patch: &SystemPatch,
    now: DateTime<Utc>,
) -> Result<System, ChainError> {
    let row = sqlx::query_file_as!(
        SystemRow,
        "sql/queries/external_system/update.sql",
        system.as_str(),
        versions,
        patch.name.as_ref().map(SystemName::as_str),
        patch.state.map(RegistryState::code),
        now,
    );
    match row.fetch_optional(&mut *conn).await? {
        Some(row) => row.try_into(),
        None => get_system(conn, system).await.and(Err(Code::PreconditionFailed.into())),
    }
}
