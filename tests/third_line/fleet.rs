//! The fleet: who drives what.

use serde::{Deserialize, Serialize};
use sqlx::{
    Arguments, Row,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};
use tessera::{
    http::input::{Int, nullable, present},
    member::{
        family::{Vault, mask_text},
        profile::{Line, Registered, impossible},
    },
    partition::Added,
    text_type,
};

// In the tree these are files of `partitions` and `sql/queries`, which the build finds by itself.
inventory::submit! {
    Added {
        plans: &[("member_profile_fleet", include_str!("plan.toml"))],
        queries: &[
            ("member_profile_fleet/find", include_str!("find.sql")),
            ("member_profile_fleet/put", include_str!("put.sql")),
            ("member_profile_fleet/delete_all", include_str!("delete_all.sql")),
            ("rotate/member_profile_fleet_walk", include_str!("rotate_walk.sql")),
            ("rotate/member_profile_fleet_lock", include_str!("rotate_lock.sql")),
            ("rotate/member_profile_fleet_update", include_str!("rotate_update.sql")),
        ],
    }
}

inventory::submit! { Registered::line::<Fleet>() }

text_type! {
    Vehicle: text 1..=32, "van";
    Plate: text 1..=16, "A12345";
}

pub struct Fleet;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetGiven {
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Vehicle>)]
    vehicle: Option<Option<Vehicle>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Plate>)]
    plate: Option<Option<Plate>>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    rating: Option<Int<0, 5>>,
}

#[derive(Clone, Default, PartialEq, Serialize)]
pub struct FleetFields {
    vehicle: Option<String>,
    plate: Option<String>,
    rating: i16,
}

#[derive(Serialize, utoipa::ToSchema)]
pub struct FleetShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    vehicle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plate: Option<String>,
    rating: i16,
}

impl Line for Fleet {
    const NAME: &'static str = "fleet";
    const TABLE: &'static str = "member_profile_fleet";
    const SEALED: &'static [&'static str] = &["plate"];

    type Given = FleetGiven;
    type Fields = FleetFields;
    type Shown = FleetShown;

    fn governs(given: &FleetGiven) -> bool {
        given.rating.is_some()
    }

    fn publishes(_: &FleetFields, _: &FleetFields) -> bool {
        false
    }

    fn apply(given: &FleetGiven, was: &FleetFields, whole: bool) -> FleetFields {
        FleetFields {
            vehicle: match &given.vehicle {
                Some(vehicle) => vehicle.as_ref().map(ToString::to_string),
                None => was.vehicle.clone().filter(|_| !whole),
            },
            plate: match &given.plate {
                Some(plate) => plate.as_ref().map(ToString::to_string),
                None => was.plate.clone().filter(|_| !whole),
            },
            rating: given.rating.map_or(was.rating, |rating| rating.get() as i16),
        }
    }

    fn show(fields: &FleetFields) -> FleetShown {
        let plate = fields.plate.as_deref().map(|plate| mask_text(plate, 2));
        FleetShown { vehicle: fields.vehicle.clone(), plate, rating: fields.rating }
    }

    fn read(row: &PgRow, vault: &Vault<'_>) -> Result<FleetFields, sqlx::Error> {
        let plate: Option<Vec<u8>> = row.try_get("plate")?;
        Ok(FleetFields {
            vehicle: row.try_get("vehicle")?,
            plate: vault.open_some("plate", plate.as_deref()).map_err(impossible)?,
            rating: row.try_get("rating")?,
        })
    }

    fn write(fields: &FleetFields, vault: &Vault<'_>, to: &mut PgArguments) -> Result<(), BoxDynError> {
        to.add([fields.rating])?;
        to.add([fields.plate.as_deref().map(|plate| vault.seal("plate", plate))])?;
        to.add([fields.vehicle.as_deref()])
    }
}
