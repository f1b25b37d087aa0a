//! Registers: the tills of a store.
//!
//! A till need not be registered: by default a register is known by what it calls itself, as ledgers carry it. A store
//! that wants to know them says `registers: registered`, and then only those that are active here may call.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{ChainError, RegistryState};
use crate::{http::input, id::StoreNo, problem::Refusal};

/// Registers of one store.
pub const REGISTERS_MAX: usize = 1_000;

crate::text_type! {
    /// A till of a store, as it calls itself.
    Register: word 1..=16, "2";
    /// What people call a register.
    RegisterName: text 1..=80, "Ground floor, left";
}

/// A till of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RegisterView {
    pub register: Register,
    #[schema(required)]
    pub name: Option<RegisterName>,
    pub state: RegistryState,
    /// Counts changes, from 1.
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A register as it shall be.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterForm {
    #[serde(default)]
    pub name: Option<RegisterName>,
    /// Active if absent.
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub state: Option<RegistryState>,
}

struct RegisterRow {
    register: String,
    name: Option<String>,
    state: i16,
    version: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<RegisterRow> for RegisterView {
    type Error = ChainError;

    fn try_from(row: RegisterRow) -> Result<Self, ChainError> {
        let bad = |column| ChainError::Inconsistent { table: "register", column, key: row.register.clone() };
        Ok(Self {
            register: Register::parse(row.register.as_str()).map_err(|_| bad("register"))?,
            name: row.name.clone().map(RegisterName::parse).transpose().map_err(|_| bad("name"))?,
            state: RegistryState::from_code(row.state).ok_or_else(|| bad("state"))?,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Up to `rows_max` registers of a store in the order of their names, from after `after`.
pub async fn list_registers(
    conn: &mut PgConnection,
    store_no: StoreNo,
    after: Option<&str>,
    rows_max: i64,
) -> Result<Vec<RegisterView>, ChainError> {
    let rows = sqlx::query_file_as!(RegisterRow, "sql/queries/register/list.sql", store_no.get(), after, rows_max);
    rows.fetch_all(conn).await?.into_iter().map(RegisterView::try_from).collect()
}

/// The registers that may call for a store that takes registered ones only.
pub async fn list_active(conn: &mut PgConnection, store_no: StoreNo) -> Result<HashSet<String>, ChainError> {
    let names = sqlx::query_file_scalar!("sql/queries/register/list_active.sql", store_no.get());
    Ok(names.fetch_all(conn).await?.into_iter().collect())
}

/// Makes a register, or makes it what is said; the same again changes nothing. Gives it with whether it is new.
///
/// # Errors
/// `invalid_field` when the store has [`REGISTERS_MAX`].
pub async fn put_register(
    conn: &mut PgConnection,
    store_no: StoreNo,
    register: &Register,
    body: &RegisterForm,
    now: DateTime<Utc>,
) -> Result<(RegisterView, bool), ChainError> {
    let (store_no, id) = (store_no.get(), register.as_str());
    let name = body.name.as_ref().map(RegisterName::as_str);
    let state = body.state.unwrap_or(RegistryState::Active).code();
    let made =
        sqlx::query_file!("sql/queries/register/insert.sql", now, store_no, id, name, state, REGISTERS_MAX as i64);
    let made = made.execute(&mut *conn).await?.rows_affected() == 1;
    if !made {
        sqlx::query_file!("sql/queries/register/update.sql", now, store_no, id, name, state)
            .execute(&mut *conn)
            .await?;
    }
    let row = sqlx::query_file_as!(RegisterRow, "sql/queries/register/find.sql", store_no, id);
    match row.fetch_optional(&mut *conn).await? {
        Some(row) => Ok((row.try_into()?, made)),
        None => Err(Refusal::invalid_field("register", format!("a store has at most {REGISTERS_MAX}")).into()),
    }
}
