//! Sport: who trains, and where. The bio is what members show to others.

use serde::{Deserialize, Serialize};
use sqlx::{
    Arguments, Row,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};

use super::{Line, Registered, impossible};
use crate::{
    http::input::{Int, nullable, present},
    member::{family::Vault, log::What, numbered, place::PlaceName},
    text_type,
};

numbered! {
    SportRole { Athlete 1, Coach 2, Guardian 3 }
}

text_type! {
    /// What a member tells of itself.
    Bio: text 1..=500, "Runs before breakfast";
    School: text 1..=128, "No. 2 Middle School";
    /// A year of a school, or a class of it.
    SchoolGroup: text 1..=32, "3";
}

pub struct Sport;

inventory::submit! { Registered::line::<Sport>() }

/// What to say of a member in sport.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SportGiven {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    sport_role: Option<SportRole>,
    /// In grams.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Int<500, 500_000>>)]
    weight_g: Option<Option<Int<500, 500_000>>>,
    /// In millimetres.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Int<300, 3_000>>)]
    height_mm: Option<Option<Int<300, 3_000>>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Bio>)]
    bio: Option<Option<Bio>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<PlaceName>)]
    region: Option<Option<PlaceName>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<School>)]
    school: Option<Option<School>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<SchoolGroup>)]
    grade: Option<Option<SchoolGroup>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<SchoolGroup>)]
    class: Option<Option<SchoolGroup>>,
}

/// What is kept is what is shown.
#[derive(Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SportProfile {
    sport_role: SportRole,
    /// In grams.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_g: Option<i32>,
    /// In millimetres.
    #[serde(skip_serializing_if = "Option::is_none")]
    height_mm: Option<i16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bio: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    school: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grade: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
}

impl Default for SportProfile {
    fn default() -> Self {
        Self {
            sport_role: SportRole::Athlete,
            weight_g: None,
            height_mm: None,
            bio: None,
            region: None,
            school: None,
            grade: None,
            class: None,
        }
    }
}

/// What a field is after a request that says this of it.
fn after<G, T>(given: &Option<Option<G>>, was: Option<T>, whole: bool, read: impl Fn(&G) -> T) -> Option<T> {
    match given {
        Some(given) => given.as_ref().map(read),
        None => was.filter(|_| !whole),
    }
}

impl Line for Sport {
    const NAME: &'static str = "sport";
    const TABLE: &'static str = "member_profile_sport";
    const SEALED: &'static [&'static str] = &[];
    const WHAT: What = What::ProfileSport;

    type Given = SportGiven;
    type Fields = SportProfile;
    type Shown = SportProfile;

    fn governs(_: &SportGiven) -> bool {
        false
    }

    fn publishes(was: &SportProfile, is: &SportProfile) -> bool {
        was.bio != is.bio
    }

    fn apply(given: &SportGiven, was: &SportProfile, whole: bool) -> SportProfile {
        let was = was.clone();
        let sport_role = if whole { SportRole::Athlete } else { was.sport_role };
        SportProfile {
            sport_role: given.sport_role.unwrap_or(sport_role),
            weight_g: after(&given.weight_g, was.weight_g, whole, |grams| grams.get() as i32),
            height_mm: after(&given.height_mm, was.height_mm, whole, |millimetres| millimetres.get() as i16),
            bio: after(&given.bio, was.bio, whole, ToString::to_string),
            region: after(&given.region, was.region, whole, ToString::to_string),
            school: after(&given.school, was.school, whole, ToString::to_string),
            grade: after(&given.grade, was.grade, whole, ToString::to_string),
            class: after(&given.class, was.class, whole, ToString::to_string),
        }
    }

    fn show(fields: &SportProfile) -> SportProfile {
        fields.clone()
    }

    fn read(row: &PgRow, vault: &Vault<'_>) -> Result<SportProfile, sqlx::Error> {
        let sport_role = SportRole::from_number(row.try_get("sport_role")?);
        Ok(SportProfile {
            sport_role: sport_role.ok_or_else(|| impossible(vault.impossible("sport_role")))?,
            weight_g: row.try_get("weight_g")?,
            height_mm: row.try_get("height_mm")?,
            bio: row.try_get("bio")?,
            region: row.try_get("region")?,
            school: row.try_get("school")?,
            grade: row.try_get("grade")?,
            class: row.try_get("class")?,
        })
    }

    fn write(fields: &SportProfile, _: &Vault<'_>, to: &mut PgArguments) -> Result<(), BoxDynError> {
        to.add([fields.weight_g])?;
        to.add([fields.height_mm])?;
        to.add([fields.sport_role.number()])?;
        to.add([fields.bio.as_deref()])?;
        to.add([fields.region.as_deref()])?;
        to.add([fields.school.as_deref()])?;
        to.add([fields.grade.as_deref()])?;
        to.add([fields.class.as_deref()])
    }
}
