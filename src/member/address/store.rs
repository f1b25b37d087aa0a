//! The SQL of addresses. Receiver, phone, detail and coordinates are encrypted.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{Content, Detail, Label, OpenAddress, Postcode, Receiver};
use crate::{
    db::lane::{Target, Tx, WriteError, expect_rows},
    id::{AddressId, MemberId},
    member::{
        family::{self, Row, Table, Vault},
        place::PlaceName,
    },
    partition::query,
    secret::Secrets,
};

const TABLE: &str = "member_address";

/// A row of `member_address`.
#[derive(Debug, Clone, FromRow)]
pub struct AddressRow {
    pub member_id: MemberId,
    pub address_id: AddressId,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i32,
    is_default: bool,
    receiver: Vec<u8>,
    phone: Option<Vec<u8>>,
    detail: Vec<u8>,
    coordinates: Option<Vec<u8>>,
    province: Option<String>,
    city: Option<String>,
    district: Option<String>,
    postcode: Option<String>,
    label: Option<String>,
}

impl AddressRow {
    /// The address unmasked. Whoever shows it to somebody writes that down.
    ///
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    pub fn open(&self, secrets: &Secrets) -> Result<OpenAddress, String> {
        let vault = Vault { secrets, table: TABLE, member_id: self.member_id };
        let name = |column: &str, text: &Option<String>| {
            text.clone().map(PlaceName::parse).transpose().map_err(|_| vault.impossible(column))
        };
        let content = Content {
            receiver: Receiver::parse(vault.open("receiver", &self.receiver)?)
                .map_err(|_| vault.impossible("receiver"))?,
            phone: vault.open_some("phone", self.phone.as_deref())?,
            province: name("province", &self.province)?,
            city: name("city", &self.city)?,
            district: name("district", &self.district)?,
            detail: Detail::parse(vault.open("detail", &self.detail)?).map_err(|_| vault.impossible("detail"))?,
            postcode: self
                .postcode
                .clone()
                .map(Postcode::parse)
                .transpose()
                .map_err(|_| vault.impossible("postcode"))?,
            label: self.label.clone().map(Label::parse).transpose().map_err(|_| vault.impossible("label"))?,
            coordinates: vault.open_coordinates(self.coordinates.as_deref())?,
        };
        let Self { member_id, address_id, created_at, updated_at, version, is_default, .. } = *self;
        Ok(OpenAddress { member_id, address_id, created_at, updated_at, version, is_default, content })
    }
}

impl Row for AddressRow {
    const TABLE: &'static str = TABLE;
    const SEALED: &'static [&'static str] = &["receiver", "phone", "detail", "coordinates"];

    fn member_id(&self) -> MemberId {
        self.member_id
    }

    fn export(&self, secrets: &Secrets) -> Result<Value, String> {
        let OpenAddress { created_at, updated_at, is_default, content, .. } = self.open(secrets)?;
        Ok(json!({
            "is_default": is_default, "receiver": content.receiver, "phone": content.phone,
            "province": content.province, "city": content.city, "district": content.district,
            "detail": content.detail, "postcode": content.postcode, "label": content.label,
            "coordinates": content.coordinates, "created_at": created_at, "updated_at": updated_at,
        }))
    }

    const REVEALED: Option<&'static str> = Some("addresses");

    fn reveal(&self, secrets: &Secrets) -> Result<Value, String> {
        let OpenAddress { address_id, content, .. } = self.open(secrets)?;
        Ok(json!({
            "address_id": address_id, "receiver": content.receiver, "phone": content.phone, "detail": content.detail,
            "coordinates": content.coordinates,
        }))
    }
}

inventory::submit! { Table::of::<AddressRow>() }

/// Writes a new address.
pub(super) async fn insert_address(tx: &mut Tx<'_>, secrets: &Secrets, open: &OpenAddress) -> Result<(), WriteError> {
    send(tx, "member_address/insert", secrets, open).await
}

/// Writes an address back, which still has the version in `open`; gives it the next one.
pub(super) async fn update_address(
    tx: &mut Tx<'_>,
    secrets: &Secrets,
    open: &mut OpenAddress,
) -> Result<(), WriteError> {
    send(tx, "member_address/update", secrets, open).await?;
    open.version += 1;
    Ok(())
}

/// Both statements take the same columns.
async fn send(tx: &mut Tx<'_>, name: &'static str, secrets: &Secrets, open: &OpenAddress) -> Result<(), WriteError> {
    let vault = Vault { secrets, table: TABLE, member_id: open.member_id };
    let content = &open.content;
    let place = |name: &Option<PlaceName>| [name.as_ref().map(|name| name.as_str().to_owned())];
    let sql = tx.sql(query(name), Target::Leaf(family::leaf_of(TABLE, open.member_id)));
    let written = sqlx::query(sql)
        .bind([open.member_id])
        .bind([open.address_id])
        .bind([open.created_at])
        .bind([open.updated_at])
        .bind([open.version])
        .bind([open.is_default])
        .bind([vault.seal("receiver", content.receiver.as_str())])
        .bind([content.phone.as_ref().map(|phone| vault.seal("phone", phone))])
        .bind([vault.seal("detail", content.detail.as_str())])
        .bind([content.coordinates.map(|at| vault.seal_coordinates(at))])
        .bind(place(&content.province))
        .bind(place(&content.city))
        .bind(place(&content.district))
        .bind([content.postcode.as_ref().map(Postcode::as_str)])
        .bind([content.label.as_ref().map(Label::as_str)])
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, 1, written.rows_affected())
}

/// Deletes an address that the member has.
pub(super) async fn delete_address(
    tx: &mut Tx<'_>,
    member_id: MemberId,
    address_id: AddressId,
) -> Result<(), WriteError> {
    let sql = tx.sql(query("member_address/delete"), Target::Leaf(family::leaf_of(TABLE, member_id)));
    let deleted = sqlx::query(sql).bind([member_id]).bind([address_id]).execute(tx.conn().await?).await?;
    expect_rows(TABLE, 1, deleted.rows_affected())
}
