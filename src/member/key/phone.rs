//! Phone numbers to E.164, and their masks.
//!
//! libphonenumber decides. Ordinary Chinese mobile numbers, nearly all that a chain there sees, take a short way that
//! is tested to give the same: the library costs a hundred times as much and shares one lock between all threads.

use phonenumber::country::{Id, Source};
use phonenumber::{Mode, PhoneNumber};

use super::{Why, cleaned};

/// Where phone numbers without a country code belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region(Id);

impl Region {
    pub const CHINA: Region = Region(Id::CN);

    /// A region by its ISO 3166 code of two letters, such as `CN`.
    pub fn parse(code: &str) -> Option<Self> {
        code.parse().ok().map(Self)
    }
}

impl Default for Region {
    fn default() -> Self {
        Self::CHINA
    }
}

pub(super) fn normalise(region: Region, text: &str) -> Result<String, Why> {
    if let Some(mobile) = chinese_mobile(region, text) {
        return Ok(format!("+86{mobile}"));
    }
    by_library(region, &cleaned(text)).ok_or(Why::Phone)
}

/// The national number of a plainly written Chinese mobile number in a series that is wholly in use.
fn chinese_mobile(region: Region, text: &str) -> Option<&str> {
    let national = match text.strip_prefix("+86") {
        Some(national) => national,
        None if region == Region::CHINA => text,
        None => return None,
    };
    let digits = national.as_bytes();
    let plain = digits.len() == 11 && digits.iter().all(u8::is_ascii_digit);
    let whole_series = plain && digits[0] == b'1' && matches!(digits[1], b'3' | b'5' | b'8') && &digits[1..3] != b"54";
    whole_series.then_some(national)
}

fn by_library(region: Region, text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.get(..4).filter(|scheme| scheme.eq_ignore_ascii_case("tel:")).map_or(text, |_| text[4..].trim());
    // The library would dial letters as on a keypad: 1-800-FLOWERS is somebody's number, and nobody meant to write it.
    if text.contains(char::is_alphabetic) {
        return None;
    }
    let number = if text.starts_with('+') { international(text)? } else { local(region, text)? };
    Some(number.format().mode(Mode::E164).to_string())
}

/// Read without a region: the library would strip that region's national prefix from a foreign number, which makes
/// +39 02 (Milan) into +39 2.
fn international(text: &str) -> Option<PhoneNumber> {
    phonenumber::parse(None, text).ok().filter(is_sound)
}

fn local(region: Region, text: &str) -> Option<PhoneNumber> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    match phonenumber::parse(Some(region.0), text) {
        // Dialled abroad from the region. Other prefixes than 00 are not worth a rule: write them with a plus.
        Ok(number) if number.code().source() == Source::Idd => {
            international(&format!("+{}", digits.strip_prefix("00")?))
        }
        Ok(number) if is_sound(&number) => Some(number),
        // An extension is wrong in whatever way the number is read.
        Ok(number) if number.extension().is_some() => None,
        // The region's own country code, its plus left out.
        _ if digits.len() == text.len() => {
            international(&format!("+{digits}")).filter(|number| number.country().id() == Some(region.0))
        }
        _ => None,
    }
}

fn is_sound(number: &PhoneNumber) -> bool {
    number.extension().is_none() && phonenumber::is_valid(number)
}

/// Country code and the first three digits, four stars, the last four digits; of short numbers less, so that at least
/// three digits are hidden.
pub(super) fn mask(e164: &str) -> String {
    let Some(digits) = e164.strip_prefix('+').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())) else {
        return "****".to_owned();
    };
    let (country, national) = digits.split_at(country_code_digits(digits).min(digits.len()));
    let tail = if national.len() >= 8 { 4 } else { national.len().saturating_sub(3).min(2) };
    let head = national.len().saturating_sub(tail + 4).min(3);
    format!("+{country}{}****{}", &national[..head], &national[national.len() - tail..])
}

/// Length of the country code, by ITU-T E.164's list of assigned codes: those of one and two digits, else three.
fn country_code_digits(digits: &str) -> usize {
    match digits.as_bytes() {
        [b'1' | b'7', ..] => 1,
        [b'2', b'0' | b'7', ..]
        | [b'3', b'0'..=b'4' | b'6' | b'9', ..]
        | [b'4', b'0' | b'1' | b'3'..=b'9', ..]
        | [b'5', b'1'..=b'8', ..]
        | [b'6', b'0'..=b'6', ..]
        | [b'8', b'1' | b'2' | b'4' | b'6', ..]
        | [b'9', b'0'..=b'5' | b'8', ..] => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_gives_what_the_library_gives() {
        // Each series of three digits (130 … 199 and all else), with numbers spread over it.
        for series in 100..1_000 {
            for k in 0..40_u64 {
                let rest = (k * 2_500_003 + series * 104_729) % 100_000_000;
                for text in [format!("{series}{rest:08}"), format!("+86{series}{rest:08}")] {
                    if let Some(mobile) = chinese_mobile(Region::CHINA, &text) {
                        let library = by_library(Region::CHINA, &text);
                        assert_eq!(library.as_deref(), Some(format!("+86{mobile}").as_str()), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_short_way_covers_the_series_of_old_and_leaves_the_others() {
        assert_eq!(chinese_mobile(Region::CHINA, "13800000001"), Some("13800000001"));
        assert_eq!(chinese_mobile(Region::CHINA, "+8618612345678"), Some("18612345678"));
        let germany = Region::parse("DE").unwrap();
        assert_eq!(chinese_mobile(germany, "13800000001"), None);
        assert_eq!(chinese_mobile(germany, "+8613800000001"), Some("13800000001"));
        for text in ["15400000001", "1380000000", "138000000011", "12345678901", "1380000000a", "+861380000000"] {
            assert_eq!(chinese_mobile(Region::CHINA, text), None, "{text}");
        }
    }

    #[test]
    fn a_mask_keeps_country_head_and_tail() {
        for (e164, masked) in [
            ("+8613800000001", "+86138****0001"),
            ("+16502530000", "+165****0000"),
            ("+6591234567", "+65****4567"),
            ("+85291234567", "+852****4567"),
            ("+861012345678", "+8610****5678"),
            ("+4930123456", "+49****3456"),
            ("+290123", "+290****"),
            ("+68612345", "+686****45"),
            ("+", "+****"),
            ("lin", "****"),
        ] {
            assert_eq!(mask(e164), masked, "{e164}");
        }
    }
}
