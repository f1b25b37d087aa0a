//! The SQL of locations.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::Location;
use crate::{
    db::lane::{Target, Tx, WriteError, expect_rows},
    id::MemberId,
    member::{
        family::{self, Row, Table},
        place::{Coordinates, Place, PlaceName},
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
    latitude: Option<f64>,
    longitude: Option<f64>,
    nation: Option<String>,
    province: Option<String>,
    city: Option<String>,
    district: Option<String>,
}

impl LocationRow {
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    pub(super) fn place(&self) -> Result<Place, String> {
        let name = |column: &str, text: &Option<String>| {
            let impossible = |_| format!("{TABLE}.{column} of {} is impossible", self.member_id);
            text.clone().map(PlaceName::parse).transpose().map_err(impossible)
        };
        Ok(Place {
            nation: name("nation", &self.nation)?,
            province: name("province", &self.province)?,
            city: name("city", &self.city)?,
            district: name("district", &self.district)?,
            coordinates: Coordinates::from_columns(self.latitude, self.longitude),
        })
    }

    /// # Errors
    /// As [`Self::place`].
    pub(super) fn show(&self) -> Result<Location, String> {
        Ok(Location::new(self.place()?, self.updated_at))
    }
}

impl Row for LocationRow {
    const TABLE: &'static str = TABLE;
    const SEALED: &'static [&'static str] = &[];

    fn member_id(&self) -> MemberId {
        self.member_id
    }

    fn export(&self, _: &Secrets) -> Result<Value, String> {
        let Place { nation, province, city, district, coordinates } = self.place()?;
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
    now: DateTime<Utc>,
    member_id: MemberId,
    place: &Place,
) -> Result<(), WriteError> {
    let text = |name: &Option<PlaceName>| [name.as_ref().map(|name| name.as_str().to_owned())];
    let sql = tx.sql(query("member_location/put"), Target::Leaf(family::leaf_of(TABLE, member_id)));
    let put = sqlx::query(sql)
        .bind([member_id])
        .bind([now])
        .bind([place.coordinates.map(Coordinates::latitude)])
        .bind([place.coordinates.map(Coordinates::longitude)])
        .bind(text(&place.nation))
        .bind(text(&place.province))
        .bind(text(&place.city))
        .bind(text(&place.district))
        .execute(tx.conn())
        .await?;
    expect_rows(TABLE, 1, put.rows_affected())
}
