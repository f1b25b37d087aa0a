//! What the core row says of a member besides names: pictures and custom attributes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de};
use serde_json::Value;
use utoipa::openapi::{
    RefOr, Schema,
    schema::{AdditionalProperties, ObjectBuilder, SchemaType, Type},
};

use crate::{http::input, text_type};

text_type! {
    /// Where a picture is.
    PictureUrl: text 1..=512, "https://img.example.cn/a/42.webp";
    /// The name of a custom attribute.
    AttributeName: word 1..=64, "household_size";
    /// A custom attribute's value, when it is text.
    AttributeText: text 0..=256, "35-44";
}

/// Sizes of one picture at most.
pub const AVATAR_SIZES_MAX: usize = 8;
/// Custom attributes of one member at most.
pub const ATTRIBUTES_MAX: usize = 64;

/// A picture of a member: as it was given, and in sizes made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Avatar {
    pub original: PictureUrl,
    /// By edge length in pixels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "sizes")]
    pub sizes: BTreeMap<u16, PictureUrl>,
}

fn sizes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u16, PictureUrl>, D::Error> {
    let texts = BTreeMap::<String, PictureUrl>::deserialize(deserializer)?;
    if texts.len() > AVATAR_SIZES_MAX {
        return Err(input::invalid(format_args!("must be at most {AVATAR_SIZES_MAX} sizes")));
    }
    let read = |(text, url): (String, PictureUrl)| match text.parse::<u16>() {
        Ok(edge) if edge > 0 && text == edge.to_string() => Ok((edge, url)),
        _ => Err(input::invalid("sizes are named by their edge in pixels, 1 to 65535")),
    };
    texts.into_iter().map(read).collect()
}

impl utoipa::PartialSchema for Avatar {
    fn schema() -> RefOr<Schema> {
        let sizes = ObjectBuilder::new()
            .description(Some("By edge length in pixels."))
            .property_names(Some(pattern("^([1-9][0-9]{0,3}|[1-5][0-9]{4})$")))
            .max_properties(Some(AVATAR_SIZES_MAX))
            .additional_properties(Some(AdditionalProperties::RefOr(PictureUrl::schema())));
        ObjectBuilder::new()
            .description(Some("A picture of a member: as it was given, and in sizes made of it."))
            .property("original", PictureUrl::schema())
            .required("original")
            .property("sizes", sizes)
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .into()
    }
}

impl utoipa::ToSchema for Avatar {}

fn pattern(pattern: &str) -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).pattern(Some(pattern)).into()
}

/// A custom attribute's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AttributeValue {
    Flag(bool),
    Number(serde_json::Number),
    Text(AttributeText),
}

impl<'de> Deserialize<'de> for AttributeValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(flag) => Ok(Self::Flag(flag)),
            Value::Number(number) => Ok(Self::Number(number)),
            Value::String(text) => AttributeText::parse(text).map(Self::Text).map_err(input::invalid),
            _ => Err(de::Error::custom("an attribute is text, a number or true or false")),
        }
    }
}

impl utoipa::PartialSchema for AttributeValue {
    fn schema() -> RefOr<Schema> {
        let kinds = SchemaType::Array(vec![Type::Boolean, Type::Number, Type::String]);
        ObjectBuilder::new().schema_type(kinds).max_length(Some(AttributeText::CHARS_MAX)).into()
    }
}

impl utoipa::ToSchema for AttributeValue {}

/// What else the chain knows of its members, by names of its own. Not for personal data: it stands unencrypted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(pub BTreeMap<AttributeName, AttributeValue>);

impl utoipa::PartialSchema for Attributes {
    fn schema() -> RefOr<Schema> {
        let value = ObjectBuilder::new()
            .description(Some("What else the chain knows of its members, by names of its own. Not for personal data."))
            .property_names(Some(pattern(input::WORD_PATTERN)))
            .max_properties(Some(ATTRIBUTES_MAX))
            .additional_properties(Some(AdditionalProperties::RefOr(AttributeValue::schema())));
        value.into()
    }
}

impl utoipa::ToSchema for Attributes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_sizes_by_their_edge() {
        let text = r#"{"original":"https://a/1","sizes":{"64":"https://a/1-64"}}"#;
        let avatar: Avatar = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&avatar).unwrap(), text);
        for bad in ["0", "-1", "064", "65536", "x"] {
            let text = format!(r#"{{"original":"u","sizes":{{"{bad}":"u"}}}}"#);
            assert!(serde_json::from_str::<Avatar>(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_are_text_numbers_and_flags() {
        let text = r#"{"age":"35-44","kids":2,"vip":true}"#;
        let attributes: Attributes = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&attributes).unwrap(), text);
        for bad in [r#"{"a":null}"#, r#"{"a":[]}"#, r#"{"":1}"#, r#"{"a b":1}"#] {
            assert!(serde_json::from_str::<Attributes>(bad).is_err(), "{bad}");
        }
    }
}
