//! The SQL of devices.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{DeviceId, DeviceText, NewDevice, PushToken};
use crate::{
    db::lane::{Target, Tx, WriteError, expect_rows},
    id::{DeviceNo, MemberId},
    member::family::{self, Row, Table, Vault},
    partition::query,
    secret::Secrets,
};

const TABLE: &str = "member_device";

/// A row of `member_device`.
#[derive(Debug, Clone, FromRow)]
pub struct DeviceRow {
    pub member_id: MemberId,
    pub device_no: DeviceNo,
    created_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    vendor: Option<String>,
    client: Option<String>,
    os: Option<String>,
    app_version: Option<String>,
    market: Option<String>,
    device_id: Vec<u8>,
    push_token: Option<Vec<u8>>,
}

/// A device, unmasked.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    pub member_id: MemberId,
    pub device_no: DeviceNo,
    pub created_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    pub new: NewDevice,
}

impl DeviceRow {
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    pub fn open(&self, secrets: &Secrets) -> Result<OpenDevice, String> {
        let vault = Vault { secrets, table: TABLE, member_id: self.member_id };
        let text = |column: &str, text: &Option<String>| {
            text.clone().map(DeviceText::parse).transpose().map_err(|_| vault.impossible(column))
        };
        let device_id = vault.open("device_id", &self.device_id)?;
        let push_token = vault.open_some("push_token", self.push_token.as_deref())?;
        let new = NewDevice {
            device_id: DeviceId::parse(device_id).map_err(|_| vault.impossible("device_id"))?,
            push_token: push_token.map(PushToken::parse).transpose().map_err(|_| vault.impossible("push_token"))?,
            vendor: text("vendor", &self.vendor)?,
            client: text("client", &self.client)?,
            os: text("os", &self.os)?,
            app_version: text("app_version", &self.app_version)?,
            market: text("market", &self.market)?,
        };
        let Self { member_id, device_no, created_at, seen_at, .. } = *self;
        Ok(OpenDevice { member_id, device_no, created_at, seen_at, new })
    }
}

impl Row for DeviceRow {
    const TABLE: &'static str = TABLE;
    const SEALED: &'static [&'static str] = &["device_id", "push_token"];

    fn member_id(&self) -> MemberId {
        self.member_id
    }

    fn export(&self, secrets: &Secrets) -> Result<Value, String> {
        let OpenDevice { created_at, seen_at, new, .. } = self.open(secrets)?;
        Ok(json!({
            "device_id": new.device_id, "push_token": new.push_token, "vendor": new.vendor, "client": new.client,
            "os": new.os, "app_version": new.app_version, "market": new.market, "created_at": created_at,
            "seen_at": seen_at,
        }))
    }

    const REVEALED: Option<&'static str> = Some("devices");

    fn reveal(&self, secrets: &Secrets) -> Result<Value, String> {
        let OpenDevice { device_no, new, .. } = self.open(secrets)?;
        Ok(json!({ "device_no": device_no, "device_id": new.device_id, "push_token": new.push_token }))
    }
}

inventory::submit! { Table::of::<DeviceRow>() }

/// Writes a device, or what it is now, by its number.
pub(super) async fn put_device(tx: &mut Tx<'_>, secrets: &Secrets, open: &OpenDevice) -> Result<(), WriteError> {
    let vault = Vault { secrets, table: TABLE, member_id: open.member_id };
    let text = |text: &Option<DeviceText>| [text.as_ref().map(|text| text.as_str().to_owned())];
    let new = &open.new;
    let sql = tx.sql(query("member_device/put"), Target::Leaf(family::leaf_of(TABLE, open.member_id)));
    let put = sqlx::query(sql)
        .bind([open.member_id])
        .bind([open.device_no])
        .bind([open.created_at])
        .bind([open.seen_at])
        .bind(text(&new.vendor))
        .bind(text(&new.client))
        .bind(text(&new.os))
        .bind(text(&new.app_version))
        .bind(text(&new.market))
        .bind([vault.seal("device_id", new.device_id.as_str())])
        .bind([new.push_token.as_ref().map(|token| vault.seal("push_token", token.as_str()))])
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, 1, put.rows_affected())
}

/// Deletes a device, if there is such a one.
pub(super) async fn delete_device(
    tx: &mut Tx<'_>,
    member_id: MemberId,
    device_no: DeviceNo,
) -> Result<bool, WriteError> {
    let sql = tx.sql(query("member_device/delete"), Target::Leaf(family::leaf_of(TABLE, member_id)));
    let deleted = sqlx::query(sql).bind([member_id]).bind([device_no]).execute(tx.conn().await?).await?;
    Ok(deleted.rows_affected() > 0)
}
