//! The SQL of locations. Coordinates are encrypted.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::Location;
use crate::{
    db::lane::{Target, Tx, WriteError, expect_rows},
    id::MemberId,
    member::{
        family::{self, Row, Table, Vault},
        place::{Place, PlaceName},
    },
    partition::query,
    secret::Secrets,
};

pub(super) const TABLE: &str = "member_location";

/// A row of `member_location`.
#[derive(Debug, Clone, FromRow)]
pub struct LocationRow {
    member_id: MemberId,
    pub(super) updated_at: DateTime<Utc>,
    coordinates: Option<Vec<u8>>,
    nation: Option<String>,
    province: Option<String>,
    city: Option<String>,
    district: Option<String>,
}

impl LocationRow {
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    pub(super) fn place(&self, secrets: &Secrets) -> Result<Place, String> {
        let vault = Vault { secrets, table: TABLE, member_id: self.member_id };
        let name = |column: &str, text: &Option<String>| {
            text.clone().map(PlaceName::parse).transpose().map_err(|_| vault.impossible(column))
        };
        Ok(Place {
            nation: name("nation", &self.nation)?,
            province: name("province", &self.province)?,
            city: name("city", &self.city)?,
            district: name("district", &self.district)?,
            coordinates: vault.open_coordinates(self.coordinates.as_deref())?,
        })
    }

    /// # Errors
    /// As [`Self::place`].
    pub(super) fn show(&self, secrets: &Secrets) -> Result<Location, String> {
        Ok(Location::new(self.place(secrets)?, self.updated_at))
    }
}

impl Row for LocationRow {
    const TABLE: &'static str = TABLE;
    const SEALED: &'static [&'static str] = &["coordinates"];

    fn member_id(&self) -> MemberId {
        self.member_id
    }

    fn export(&self, secrets: &Secrets) -> Result<Value, String> {
        let Place { nation, province, city, district, coordinates } = self.place(secrets)?;
        Ok(json!({
            "nation": nation, "province": province, "city": city, "district": district, "coordinates": coordinates,
            "updated_at": self.updated_at,
        }))
    }

    const REVEALED: Option<&'static str> = Some("location");
}

inventory::submit! { Table::of::<LocationRow>() }

/// Writes a location in place of the one that may be there.
pub(super) async fn put_location(
    tx: &mut Tx<'_>,
    secrets: &Secrets,
    now: DateTime<Utc>,
    member_id: MemberId,
    place: &Place,
) -> Result<(), WriteError> {
    let vault = Vault { secrets, table: TABLE, member_id };
    let text = |name: &Option<PlaceName>| [name.as_ref().map(|name| name.as_str().to_owned())];
    let sql = tx.sql(query("member_location/put"), Target::Leaf(family::leaf_of(TABLE, member_id)));
    let put = sqlx::query(sql)
        .bind([member_id])
        .bind([now])
        .bind([place.coordinates.map(|at| vault.seal_coordinates(at))])
        .bind(text(&place.nation))
        .bind(text(&place.province))
        .bind(text(&place.city))
        .bind(text(&place.district))
        .execute(tx.conn().await?)
        .await?;
    expect_rows(TABLE, 1, put.rows_affected())
}
