//! The number of a document that says who somebody is.
//!
//! A Chinese id card has 18 characters (GB 11643-1999): six digits of a place, eight of a birthday, three of a sequence,
//! and a check character by ISO 7064 MOD 11-2, where X stands for ten. Cards of the first generation have 15: the
//! birthday without its century, and no check. What has digits alone (and an X at the end) and is 14 characters long or
//! longer is taken for such a card and must be a right one, so that a mistyped card is refused. Anything else is the
//! document of another country or kind: 5 to 20 ASCII letters and digits.

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer};
use utoipa::openapi::{
    RefOr, Schema,
    schema::{ObjectBuilder, Type},
};

use crate::http::input;

const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
const CHECKS: &[u8; 11] = b"10X98765432";
const INPUT_CHARS_MAX: usize = 40;
const CHARS_MIN: usize = 5;
const CHARS_MAX: usize = 20;
/// From so many digits on it is taken for a Chinese card.
const CARD_CHARS_MIN: usize = 14;

/// A document's number in capitals, without spaces and hyphens.
#[derive(Clone, PartialEq, Eq)]
pub struct IdCard(String);

impl std::fmt::Debug for IdCard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdCard(…)")
    }
}

impl IdCard {
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.chars().count() > INPUT_CHARS_MAX {
            return Err("is too long");
        }
        let plain: String = text.chars().filter(|one| !matches!(one, ' ' | '-')).collect();
        let number = plain.to_ascii_uppercase();
        if !number.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("must be letters and digits");
        }
        if !(CHARS_MIN..=CHARS_MAX).contains(&number.len()) {
            return Err("must be 5 to 20 letters and digits");
        }
        let digits = number.strip_suffix('X').unwrap_or(&number);
        if number.len() >= CARD_CHARS_MIN && digits.bytes().all(|byte| byte.is_ascii_digit()) && !is_card(&number) {
            return Err("is not the number of an id card: mistyped or made up");
        }
        Ok(Self(number))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first and the last character, and stars between them whatever its length.
    pub fn mask(&self) -> String {
        let (first, last) = (&self.0[..1], &self.0[self.0.len() - 1..]);
        format!("{first}****{last}")
    }
}

fn is_card(number: &str) -> bool {
    let date = |text: String| NaiveDate::parse_from_str(&text, "%Y%m%d").is_ok();
    match number.len() {
        15 => number.bytes().all(|byte| byte.is_ascii_digit()) && date(format!("19{}", &number[6..12])),
        18 => {
            let digits = number.bytes().take(17).map(|byte| u32::from(byte.wrapping_sub(b'0')));
            let sum: u32 = digits.zip(WEIGHTS).map(|(digit, weight)| digit * weight).sum();
            number.as_bytes()[17] == CHECKS[sum as usize % 11] && date(number[6..14].to_owned())
        }
        _ => false,
    }
}

impl<'de> Deserialize<'de> for IdCard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(input::invalid)
    }
}

impl utoipa::PartialSchema for IdCard {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A Chinese id card with its check character, or another document's number."))
            .min_length(Some(CHARS_MIN))
            .max_length(Some(INPUT_CHARS_MAX))
            .pattern(Some("^[A-Za-z0-9 -]+$"))
            .examples(["11010519491231002X"])
            .into()
    }
}

impl utoipa::ToSchema for IdCard {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_checked_and_other_documents_are_taken() {
        for (text, number) in [
            // The example of the standard itself.
            ("11010519491231002X", Some("11010519491231002X")),
            ("11010519491231002x", Some("11010519491231002X")),
            ("110105 19491231 002X", Some("11010519491231002X")),
            ("440524188001010014", Some("440524188001010014")),
            ("440524188001010015", None),
            ("110105194912310021", None),
            ("110105194913310029", None),
            ("110105491231002", Some("110105491231002")),
            ("110105491331002", None),
            ("1101054912310", Some("1101054912310")),
            ("11010549123100", None),
            ("1101051949123100", None),
            ("E12345678", Some("E12345678")),
            ("h-123 456 78", Some("H12345678")),
            ("A1", None),
            ("", None),
            ("护照12345", None),
            ("E12345678E12345678E12", None),
        ] {
            assert_eq!(IdCard::parse(text).ok().as_ref().map(IdCard::as_str), number, "{text}");
        }
    }

    #[test]
    fn neither_errors_nor_masks_show_a_number() {
        let card = IdCard::parse("11010519491231002X").unwrap();
        assert_eq!((card.mask().as_str(), format!("{card:?}").as_str()), ("1****X", "IdCard(…)"));
        let error = serde_json::from_str::<IdCard>("\"110105194912310021\"").unwrap_err().to_string();
        assert!(!error.contains("110105"), "{error}");
    }
}
