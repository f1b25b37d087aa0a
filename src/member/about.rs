//! What the core row says of a member besides names: pictures and custom attributes.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{Deserialize, Serialize, de};
use serde_json::Value;
use utoipa::openapi::{
    RefOr, Schema,
    schema::{AdditionalProperties, ObjectBuilder, SchemaType, Type},
};

use crate::{http::input, problem::Refusal, text_type};

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

/// An object whose names come once: of one that comes twice the last value would be taken, and nobody would know.
fn once_each<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: serde::Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    struct OnceEach<K, V>(PhantomData<(K, V)>);

    impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> de::Visitor<'de> for OnceEach<K, V> {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((name, value)) = object.next_entry()? {
                if map.insert(name, value).is_some() {
                    return Err(input::invalid("a name comes twice"));
                }
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(OnceEach(PhantomData))
}

fn sizes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u16, PictureUrl>, D::Error> {
    let texts: BTreeMap<String, PictureUrl> = once_each(deserializer)?;
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
pub struct Attributes(#[serde(deserialize_with = "once_each")] pub BTreeMap<AttributeName, AttributeValue>);

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

impl Attributes {
    /// Sets what is given and removes what is null, as RFC 7396 merges.
    ///
    /// # Errors
    /// `invalid_field` when there would be more than [`ATTRIBUTES_MAX`].
    pub fn merge(&mut self, patch: &AttributesPatch) -> Result<(), Refusal> {
        for (name, value) in &patch.0 {
            match value {
                Some(value) => drop(self.0.insert(name.clone(), value.clone())),
                None => drop(self.0.remove(name)),
            }
        }
        self.check()
    }

    /// # Errors
    /// As [`Self::merge`].
    pub fn check(&self) -> Result<(), Refusal> {
        if self.0.len() <= ATTRIBUTES_MAX {
            return Ok(());
        }
        Err(Refusal::invalid_field("attributes", format!("a member has at most {ATTRIBUTES_MAX} attributes")))
    }
}

/// Attributes to set, and those that are null to remove.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct AttributesPatch(
    #[serde(deserialize_with = "once_each")] pub BTreeMap<AttributeName, Option<AttributeValue>>,
);

impl utoipa::PartialSchema for AttributesPatch {
    fn schema() -> RefOr<Schema> {
        let kinds = SchemaType::Array(vec![Type::Boolean, Type::Number, Type::String, Type::Null]);
        let value = ObjectBuilder::new().schema_type(kinds).max_length(Some(AttributeText::CHARS_MAX));
        let names = pattern(input::WORD_PATTERN);
        let patch = ObjectBuilder::new()
            .description(Some("Custom attributes to set; one that is null is removed, the others stay."))
            .property_names(Some(names))
            .max_properties(Some(ATTRIBUTES_MAX))
            .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(value.into()))));
        patch.into()
    }
}

impl utoipa::ToSchema for AttributesPatch {}

/// What the core row of a member to be says of it besides names.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Avatar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_merge_and_null_removes() {
        let mut attributes: Attributes = serde_json::from_str(r#"{"age":"35-44","kids":2}"#).unwrap();
        let patch = |text: &str| serde_json::from_str::<AttributesPatch>(text).unwrap();
        attributes.merge(&patch(r#"{"kids":null,"vip":true,"none":null}"#)).unwrap();
        assert_eq!(serde_json::to_string(&attributes).unwrap(), r#"{"age":"35-44","vip":true}"#);
        let many: Vec<String> = (0..ATTRIBUTES_MAX).map(|n| format!("\"a{n}\":1")).collect();
        assert!(attributes.merge(&patch(&format!("{{{}}}", many.join(",")))).is_err());
    }

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
        let twice = serde_json::from_str::<Attributes>(r#"{"a":1,"b":2,"a":1}"#).unwrap_err();
        assert!(twice.to_string().contains("a name comes twice"), "{twice}");
        assert!(serde_json::from_str::<AttributesPatch>(r#"{"a":1,"a":null}"#).is_err());
        assert!(serde_json::from_str::<Avatar>(r#"{"original":"u","sizes":{"64":"u","64":"v"}}"#).is_err());
        for bad in [r#"{"a":null}"#, r#"{"a":[]}"#, r#"{"":1}"#, r#"{"a b":1}"#] {
            assert!(serde_json::from_str::<Attributes>(bad).is_err(), "{bad}");
        }
    }
}
