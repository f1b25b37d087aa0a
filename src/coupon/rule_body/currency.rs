//! The currency of a sum, as bodies say it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// ISO 4217: three capital letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Currency(String);

impl Currency {
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() == 3 && text.bytes().all(|letter| letter.is_ascii_uppercase()) {
            return Ok(Self(text));
        }
        Err(crate::http::input::invalid("must be three capital letters, as in ISO 4217"))
    }
}

impl utoipa::PartialSchema for Currency {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        crate::http::input::text_schema(3, 3, "^[A-Z]{3}$", "CNY")
    }
}

impl ToSchema for Currency {}
