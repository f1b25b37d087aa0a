//! The tables that belong to a member beside the core row: addresses, devices, location, profiles, roles, tags.
//!
//! Each has a directory or a file of its own and registers itself here ([`Table`]). What must reach all of them, an
//! erasure or a person's export, walks the registry, so that a new table cannot be forgotten. Rows are written by edits
//! only ([`super::edit`]), which hold the lock of the member's row: no row here is locked by itself, and whoever writes one
//! locks the member first.
//!
//! Personal data is encrypted by a [`Vault`]: its table, its column and the *member's* id are the associated data.

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use sqlx::{FromRow, PgConnection, postgres::PgRow};

use super::{
    address, device, location,
    place::Coordinates,
    profile,
    reveal::{Opener, Opening},
    role, tag,
};
use crate::{
    db::lane::{Lane, Read, Reader, Target, Tx, WriteError},
    http::Routes,
    id::MemberId,
    partition::{Leaf, plan, query},
    secret::Secrets,
};

/// A row of a table of the family as it stands there, what is personal encrypted.
pub trait Row: for<'r> FromRow<'r, PgRow> + Clone + Send + Sync + Unpin + 'static {
    /// Named `member_…`. `sql/queries/<table>` has a `find` of a member's rows, in the order in which they are shown,
    /// and a `delete_all`.
    const TABLE: &'static str;
    /// Columns that a [`Vault`] encrypts.
    const SEALED: &'static [&'static str];

    fn member_id(&self) -> MemberId;

    /// Everything that the row says of the person, unmasked, for the person.
    ///
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    fn export(&self, secrets: &Secrets) -> Result<Value, String>;

    /// Under which name its rows are revealed, if answers show something of them masked: then as a list of
    /// [`Row::reveal`].
    const REVEALED: Option<&'static str> = None;

    /// What answers mask of the row, unmasked, and what names the row.
    ///
    /// # Errors
    /// As [`Row::export`].
    fn reveal(&self, secrets: &Secrets) -> Result<Value, String> {
        self.export(secrets)
    }
}

type Exporting<'a> = BoxFuture<'a, Result<Vec<Value>, WriteError>>;

/// A table of the family: `inventory::submit! { Table::of::<TagRow>() }`.
pub struct Table {
    pub name: &'static str,
    /// Columns that a [`Vault`] encrypts: what a rotation of keys writes again.
    pub sealed: &'static [&'static str],
    pub(super) export: for<'a> fn(&'a mut PgConnection, &'a Secrets, MemberId) -> Exporting<'a>,
    /// What of it can be revealed.
    pub(super) opener: Option<Opener>,
}

inventory::collect!(Table);

impl Table {
    pub const fn of<R: Row>() -> Self {
        let opener = match R::REVEALED {
            Some(field) => Some(Opener { field, open: reveal_rows::<R> }),
            None => None,
        };
        Self { name: R::TABLE, sealed: R::SEALED, export: export_rows::<R>, opener }
    }
}

fn export_rows<'a, R: Row>(conn: &'a mut PgConnection, secrets: &'a Secrets, member_id: MemberId) -> Exporting<'a> {
    Box::pin(async move {
        let rows = fetch::<R>(conn, leaf_of(R::TABLE, member_id), &[member_id]).await?;
        let values = rows.iter().map(|row| row.export(secrets));
        values.collect::<Result<_, _>>().map_err(WriteError::Inconsistent)
    })
}

fn reveal_rows<'a, R: Row>(on: &'a mut Opening<'_, '_>) -> BoxFuture<'a, Result<Value, WriteError>> {
    Box::pin(async move {
        let rows = rows::<R>(on.tx, on.member_id()).await?;
        let values = rows.iter().map(|row| row.reveal(on.secrets));
        values.collect::<Result<_, _>>().map(Value::Array).map_err(WriteError::Inconsistent)
    })
}

/// Every table of the family, in the order of locks, which is by name.
pub fn tables() -> Vec<&'static Table> {
    let mut tables: Vec<&Table> = inventory::iter::<Table>.into_iter().collect();
    tables.extend(profile::lines().into_iter().map(|line| line.family_table()));
    tables.sort_unstable_by_key(|table| table.name);
    tables
}

/// Deletes a member's rows of every table, as an erasure does. The caller holds the lock of the member's row.
/// Gives the number of rows by table, without those that had none.
///
/// # Errors
/// Those of the statements.
pub async fn delete_all(tx: &mut Tx<'_>, member_id: MemberId) -> Result<Vec<(&'static str, u64)>, WriteError> {
    let mut deleted = Vec::new();
    for table in tables() {
        let rows = delete_rows(tx, table.name, member_id).await?;
        if rows > 0 {
            deleted.push((table.name, rows));
        }
    }
    Ok(deleted)
}

/// Deletes a member's rows of one table.
pub(super) async fn delete_rows(tx: &mut Tx<'_>, table: &'static str, member_id: MemberId) -> Result<u64, WriteError> {
    let sql = tx.sql(query(&format!("{table}/delete_all")), Target::Leaf(leaf_of(table, member_id)));
    Ok(sqlx::query(sql).bind([member_id]).execute(tx.conn().await?).await?.rows_affected())
}

/// What the family's tables say of a person, unmasked: `{"address": [...], "device": [...], …}`, without those that have
/// nothing. Whoever answers with it writes it down in `audit_log`.
///
/// # Errors
/// Those of the statements, and rows that cannot be.
pub async fn export(conn: &mut PgConnection, secrets: &Secrets, member_id: MemberId) -> Result<Value, WriteError> {
    let mut all = Map::new();
    for table in tables() {
        let rows = (table.export)(&mut *conn, secrets, member_id).await?;
        if !rows.is_empty() {
            all.insert(table.name.trim_start_matches("member_").to_owned(), rows.into());
        }
    }
    Ok(all.into())
}

/// As [`export`], in a transaction of the lane, which counts what it costs.
pub(super) async fn export_counted(
    tx: &mut Tx<'_>,
    secrets: &Secrets,
    member_id: MemberId,
) -> Result<Value, WriteError> {
    for table in tables() {
        tx.sql(query(&format!("{}/find", table.name)), Target::Leaf(leaf_of(table.name, member_id)));
    }
    export(tx.conn().await?, secrets, member_id).await
}

/// The leaf of a member's rows.
pub fn leaf_of(table: &'static str, member_id: MemberId) -> Leaf {
    plan(table).leaf_i64(member_id.get())
}

async fn fetch<R: Row>(conn: &mut PgConnection, leaf: Leaf, member_ids: &[MemberId]) -> Result<Vec<R>, sqlx::Error> {
    sqlx::query_as(query(&format!("{}/find", R::TABLE)).on(&[leaf])).bind(member_ids).fetch_all(conn).await
}

/// A member's rows in a transaction that holds the lock of the member's row.
pub(super) async fn rows<R: Row>(tx: &mut Tx<'_>, member_id: MemberId) -> Result<Vec<R>, WriteError> {
    let sql = tx.sql(query(&format!("{}/find", R::TABLE)), Target::Leaf(leaf_of(R::TABLE, member_id)));
    Ok(sqlx::query_as(sql).bind([member_id]).fetch_all(tx.conn().await?).await?)
}

/// Finds the rows of members. A member without rows is left out.
pub struct Find<R>(PhantomData<fn() -> R>);

impl<R: Row> Read for Find<R> {
    type Key = MemberId;
    type Row = Arc<[R]>;

    fn leaf(&self, member_id: &MemberId) -> Leaf {
        leaf_of(R::TABLE, *member_id)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        member_ids: &[MemberId],
    ) -> Result<HashMap<MemberId, Arc<[R]>>, sqlx::Error> {
        let mut found: HashMap<MemberId, Vec<R>> = HashMap::new();
        for row in fetch::<R>(conn, leaf, member_ids).await? {
            found.entry(row.member_id()).or_default().push(row);
        }
        Ok(found.into_iter().map(|(member_id, rows)| (member_id, rows.into())).collect())
    }
}

/// The reads of the family. Cheap to clone.
#[derive(Clone)]
pub struct Family {
    pub addresses: Reader<Find<address::store::AddressRow>>,
    pub devices: Reader<Find<device::store::DeviceRow>>,
    pub locations: Reader<Find<location::store::LocationRow>>,
    pub roles: Reader<Find<role::store::RoleRow>>,
    pub tags: Reader<Find<tag::store::TagRow>>,
    pub profiles: Reader<profile::FindProfile>,
    pub secrets: Arc<Secrets>,
}

impl Family {
    pub(super) fn new(lane: &Lane, secrets: Arc<Secrets>) -> Self {
        Self {
            addresses: lane.reader(Find(PhantomData)),
            devices: lane.reader(Find(PhantomData)),
            locations: lane.reader(Find(PhantomData)),
            roles: lane.reader(Find(PhantomData)),
            tags: lane.reader(Find(PhantomData)),
            profiles: lane.reader(profile::FindProfile { secrets: Arc::clone(&secrets) }),
            secrets,
        }
    }
}

/// What the family serves.
pub fn routes() -> Routes {
    [
        address::http::routes(),
        device::http::routes(),
        location::http::routes(),
        profile::http::routes(),
        role::http::routes(),
        tag::http::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Encrypts and decrypts what a table holds of one member.
#[derive(Clone, Copy)]
pub struct Vault<'s> {
    pub secrets: &'s Secrets,
    pub table: &'static str,
    pub member_id: MemberId,
}

impl Vault<'_> {
    pub fn seal(&self, column: &'static str, plain: &str) -> Vec<u8> {
        self.secrets.encrypt(self.table, column, self.member_id.get(), plain)
    }

    /// # Errors
    /// A sentence that names table, column and key.
    pub fn open(&self, column: &'static str, sealed: &[u8]) -> Result<String, String> {
        self.secrets.decrypt(self.table, column, self.member_id.get(), sealed).map_err(|error| error.to_string())
    }

    /// # Errors
    /// As [`Self::open`].
    pub fn open_some(&self, column: &'static str, sealed: Option<&[u8]>) -> Result<Option<String>, String> {
        sealed.map(|sealed| self.open(column, sealed)).transpose()
    }

    /// Into the column `coordinates`.
    pub fn seal_coordinates(&self, at: Coordinates) -> Vec<u8> {
        self.seal("coordinates", &at.to_text())
    }

    /// # Errors
    /// As [`Self::open`].
    pub fn open_coordinates(&self, sealed: Option<&[u8]>) -> Result<Option<Coordinates>, String> {
        let text = self.open_some("coordinates", sealed)?;
        text.map(|text| Coordinates::from_text(&text).ok_or_else(|| self.impossible("coordinates"))).transpose()
    }

    /// What to say of a value that cannot be.
    pub fn impossible(&self, column: &str) -> String {
        format!("{}.{column} of {} is impossible", self.table, self.member_id)
    }
}

/// The first `shown` characters and stars; only stars of a text that would show whole.
pub fn mask_text(text: &str, shown: usize) -> String {
    match text.char_indices().nth(shown) {
        Some((at, _)) => format!("{}***", &text[..at]),
        None => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::plans;

    #[test]
    fn every_table_of_a_member_is_in_the_registry() {
        // What is not: the core row and its index, whose erasure is its own, and what belongs to the ledger.
        const OTHERS: [&str; 4] = ["member", "member_auth", "member_key", "member_rule"];
        let planned = plans().iter().map(|plan| plan.table.as_str());
        let planned: Vec<&str> =
            planned.filter(|table| table.starts_with("member") && !OTHERS.contains(table)).collect();
        let registered: Vec<&str> = tables().iter().map(|table| table.name).collect();
        assert_eq!(registered, planned);
    }

    #[test]
    fn what_is_encrypted_can_be_revealed() {
        for table in tables() {
            assert!(table.sealed.is_empty() || table.opener.is_some(), "{}", table.name);
        }
    }

    #[test]
    fn a_mask_never_shows_a_text_whole() {
        for (text, shown) in [("Nanjing Road 1", "Nan***"), ("南京路1号", "南京路***"), ("abc", "***"), ("", "***")]
        {
            assert_eq!(mask_text(text, 3), shown);
        }
    }
}
