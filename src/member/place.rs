//! Where on the earth something is, as it comes in.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::{
    RefOr, Schema,
    schema::{ObjectBuilder, Type},
};

use crate::{
    http::input::{self, present},
    text_type,
};

text_type! {
    /// A country, province, city or district, as people write it.
    PlaceName: text 1..=64, "Shanghai";
}

/// An angle of at most so many degrees on either side of zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Degrees<const MAX: i32>(f64);

pub type Latitude = Degrees<90>;
pub type Longitude = Degrees<180>;

impl<const MAX: i32> Degrees<MAX> {
    fn new(degrees: f64) -> Option<Self> {
        (degrees.abs() <= f64::from(MAX)).then_some(Self(degrees))
    }
}

impl<'de, const MAX: i32> Deserialize<'de> for Degrees<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Self::new(f64::deserialize(deserializer)?);
        found.ok_or_else(|| input::invalid(format_args!("must be -{MAX} to {MAX}")))
    }
}

impl<const MAX: i32> utoipa::PartialSchema for Degrees<MAX> {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Number).minimum(Some(-MAX)).maximum(Some(MAX)).into()
    }
}

impl<const MAX: i32> utoipa::ToSchema for Degrees<MAX> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("Degrees_{MAX}").into()
    }
}

/// Coordinates in WGS 84.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Coordinates {
    pub latitude: Latitude,
    pub longitude: Longitude,
}

impl Coordinates {
    /// As it is encrypted: `31.230416,121.473701`, with every digit, so that what is read back is equal.
    pub fn to_text(self) -> String {
        format!("{},{}", self.latitude.0, self.longitude.0)
    }

    /// What [`Self::to_text`] gave.
    pub fn from_text(text: &str) -> Option<Self> {
        let (latitude, longitude) = text.split_once(',')?;
        Some(Self {
            latitude: Degrees::new(latitude.parse().ok()?)?,
            longitude: Degrees::new(longitude.parse().ok()?)?,
        })
    }

    /// To two decimals: about a kilometre, which tells a district and no house.
    pub fn coarse(self) -> Self {
        let round = |degrees: f64| (degrees * 100.0).round() / 100.0;
        Self { latitude: Degrees(round(self.latitude.0)), longitude: Degrees(round(self.longitude.0)) }
    }
}

/// Where something is, as coarse as it is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub nation: Option<PlaceName>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub province: Option<PlaceName>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub city: Option<PlaceName>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub district: Option<PlaceName>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub coordinates: Option<Coordinates>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_on_the_earth() {
        let read = |text: &str| serde_json::from_str::<Coordinates>(text);
        let coordinates = read(r#"{"latitude":31.2304,"longitude":-180}"#).unwrap();
        assert_eq!(serde_json::to_string(&coordinates.coarse()).unwrap(), r#"{"latitude":31.23,"longitude":-180.0}"#);
        assert_eq!(Coordinates::from_text(&coordinates.to_text()), Some(coordinates));
        let fine = read(r#"{"latitude":31.230416000000001,"longitude":121.4737019999}"#).unwrap();
        assert_eq!(Coordinates::from_text(&fine.to_text()), Some(fine));
        assert!(["", "1", "91,0", "0,NaN"].into_iter().all(|text| Coordinates::from_text(text).is_none()));
        for bad in [
            r#"{"latitude":90.01,"longitude":0}"#,
            r#"{"latitude":0,"longitude":180.5}"#,
            r#"{"latitude":0}"#,
            r#"{"latitude":"1","longitude":0}"#,
            r#"{"latitude":1e300,"longitude":0}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
