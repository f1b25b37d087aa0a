//! One row of a file: read, checked, normalised.
//!
//! | code | what is wrong |
//! |---|---|
//! | `row_too_long` | the line has more bytes than a row may have |
//! | `row_malformed` | it is not CSV, or has more or fewer fields than there are columns |
//! | `encoding_invalid` | a field is not text in the file's encoding |
//! | `identifier_invalid` | an identifier is not of its kind |
//! | `identifier_missing` | there is none |
//! | `date_invalid` | a day is none, or is outside its range |
//! | `value_invalid` | another field has a value that it may not have |
//! | `store_not_found` | there is no such store |
//! | `member_key_taken` | an identifier belongs to another member, or to this one, which differs |
//!
//! The first that is found is named, in the order of the table, then of the columns.
//!
//! # What older systems write for 'unknown'
//!
//! Nothing, white space, and in any case `null`, `\n`, `n/a`, `none`, `nil`, `undefined` and `-` are no value anywhere.
//! Nor are, in an identifier, zeros alone; in a day, `0`, `0000-00-00` and `1900-01-01`; in a gender, `0` (unknown, by
//! ISO 5218); in a store and a name, `0`. In an attribute `0` is a value: a count may be nought.

use std::{borrow::Cow, collections::HashMap};

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde_json::{Map, Value};

use super::{DateFormat, Encoding, Options, column::Column};
use crate::{
    chain::system::{Purpose, Systems},
    clock::Zone,
    id::StoreNo,
    job::{
        Failure,
        file::{ROW_BYTES_MAX, Raw},
        line,
    },
    member::{
        Gender, LEVEL_MAX, State,
        about::AttributeText,
        check_birthday,
        http::{Nickname, RealName},
        key::{Identifier, Kind, Region, normalise_in},
        store::{KeyRow, keys_of},
    },
    secret::Secrets,
};

/// What rows are read with.
pub struct Reading<'a> {
    pub options: &'a Options,
    pub columns: &'a [Column],
    pub region: Region,
    pub stores: &'a HashMap<String, StoreNo>,
    pub systems: &'a Systems,
    pub secrets: &'a Secrets,
    pub zone: Zone,
    pub today: NaiveDate,
    pub now: DateTime<Utc>,
}

/// A member to be, as its row says.
pub struct Draft {
    pub ordinal: i64,
    pub line: i64,
    /// In the order of the columns; at least one, none twice.
    pub identifiers: Vec<Claimed>,
    pub name: Option<String>,
    pub nickname: Option<String>,
    pub gender: Option<Gender>,
    pub birthday: Option<NaiveDate>,
    pub home_store_no: Option<StoreNo>,
    pub level: Option<i16>,
    pub state: Option<State>,
    pub created_at: Option<DateTime<Utc>>,
    pub attributes: Map<String, Value>,
}

/// An identifier with its keys, and the column that it stands in.
pub struct Claimed {
    pub(in crate::member) column: usize,
    pub(in crate::member) identifier: Identifier,
    /// One of each live version, the current one first.
    pub(in crate::member) keys: Vec<KeyRow>,
}

/// What is wrong with a row: the column, the code, and a sentence.
type Bad = (Option<usize>, &'static str, Cow<'static, str>);

impl Reading<'_> {
    /// # Errors
    /// What is wrong with the row.
    pub fn read(&self, raw: Raw<'_>) -> Result<Draft, Failure> {
        self.draft(raw).map_err(|(column, code, detail)| Failure {
            ordinal: raw.ordinal,
            line: raw.line,
            column: column.map(|at| self.options.columns[at].clone()),
            code: code.to_owned(),
            detail: detail.into_owned(),
        })
    }

    fn draft(&self, raw: Raw<'_>) -> Result<Draft, Bad> {
        let text = raw.text.ok_or_else(|| {
            (None, "row_too_long", Cow::Owned(format!("a row is at most {ROW_BYTES_MAX} bytes long")))
        })?;
        let malformed = |detail: String| (None, "row_malformed", Cow::Owned(detail));
        let fields = line::fields(text, self.options.delimiter as u8).map_err(|error| malformed(error.to_string()))?;
        if fields.len() != self.columns.len() {
            return Err(malformed(format!("{} fields instead of {}", fields.len(), self.columns.len())));
        }
        let mut draft = Draft {
            ordinal: raw.ordinal,
            line: raw.line,
            identifiers: Vec::with_capacity(4),
            name: None,
            nickname: None,
            gender: None,
            birthday: None,
            home_store_no: None,
            level: None,
            state: None,
            created_at: None,
            attributes: Map::new(),
        };
        for (at, (field, column)) in fields.iter().zip(self.columns).enumerate() {
            if *column == Column::Ignored {
                continue;
            }
            let text = decode(self.options.encoding, field).ok_or((
                Some(at),
                "encoding_invalid",
                Cow::Borrowed("it is not text in the file's encoding"),
            ))?;
            if let Some(value) = known(&text) {
                self.take(&mut draft, at, column, value).map_err(|(code, detail)| (Some(at), code, detail))?;
            }
        }
        if draft.identifiers.is_empty() {
            return Err((None, "identifier_missing", Cow::Borrowed("a member needs at least one identifier")));
        }
        Ok(draft)
    }

    fn take(
        &self,
        draft: &mut Draft,
        at: usize,
        column: &Column,
        value: &str,
    ) -> Result<(), (&'static str, Cow<'static, str>)> {
        let invalid = |detail: String| ("value_invalid", Cow::Owned(detail));
        match column {
            Column::Identifier(kind) => self.identify(draft, at, *kind, value, value)?,
            Column::Prefixed(kind, prefix) => {
                self.identify(draft, at, *kind, value, &format!("{prefix}{value}"))?;
            }
            Column::Name if value != "0" => {
                draft.name = Some(RealName::parse(value).map_err(|bad| invalid(bad.to_string()))?.into_string());
            }
            Column::Nickname if value != "0" => {
                draft.nickname = Some(Nickname::parse(value).map_err(|bad| invalid(bad.to_string()))?.into_string());
            }
            Column::Gender => draft.gender = gender(value).map_err(|detail| invalid(detail.to_owned()))?,
            Column::Birthday => {
                if let Some(day) = day(self.options.date_format, value)? {
                    check_birthday(day, self.today)
                        .map_err(|refusal| ("date_invalid", Cow::Owned(refusal.detail.unwrap_or_default())))?;
                    draft.birthday = Some(day);
                }
            }
            Column::Store if value != "0" => {
                let store_no = self.stores.get(value).copied();
                draft.home_store_no =
                    Some(store_no.ok_or(("store_not_found", Cow::Borrowed("there is no such store")))?);
            }
            Column::Level => {
                let level = value.parse::<i16>().ok().filter(|level| (0..=LEVEL_MAX).contains(level));
                draft.level = Some(level.ok_or_else(|| invalid(format!("must be a number up to {LEVEL_MAX}")))?);
            }
            Column::State => {
                draft.state = Some(match value.to_ascii_lowercase().as_str() {
                    "normal" => State::Normal,
                    "frozen" => State::Frozen,
                    _ => return Err(invalid("must be normal or frozen".to_owned())),
                });
            }
            Column::CreatedAt => draft.created_at = self.instant(value)?,
            Column::Attribute(name) => {
                let text = AttributeText::parse(value).map_err(|bad| invalid(bad.to_string()))?;
                draft.attributes.insert(name.to_string(), text.into_string().into());
            }
            Column::Name | Column::Nickname | Column::Store | Column::Ignored => {}
        }
        Ok(())
    }

    fn identify(
        &self,
        draft: &mut Draft,
        at: usize,
        kind: Kind,
        value: &str,
        text: &str,
    ) -> Result<(), (&'static str, Cow<'static, str>)> {
        if value.bytes().all(|byte| byte == b'0') {
            return Ok(());
        }
        let found = normalise_in(self.region, kind, text)
            .map_err(|bad| ("identifier_invalid", Cow::Owned(bad.why.to_string())))?;
        // Another column may hold the same identifier.
        let Some(identifier) = found.filter(|found| !draft.identifiers.iter().any(|held| held.identifier == *found))
        else {
            return Ok(());
        };
        if let (Some(system), Some((_, id))) = (identifier.system(), identifier.normalised().split_once(':')) {
            let checked = self.systems.check_for(Purpose::Claim, system, id);
            checked.map_err(|bad| ("identifier_invalid", Cow::Owned(bad.to_string())))?;
        }
        let keys = keys_of(self.secrets, &identifier).collect();
        draft.identifiers.push(Claimed { column: at, identifier, keys });
        Ok(())
    }

    /// A day, a time in the chain's zone, or an instant with its offset; no later than now.
    fn instant(&self, value: &str) -> Result<Option<DateTime<Utc>>, (&'static str, Cow<'static, str>)> {
        let at = if let Ok(instant) = DateTime::parse_from_rfc3339(value) {
            instant.to_utc()
        } else if let Some(local) =
            ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d %H:%M:%S%.f"]
                .iter()
                .find_map(|format| NaiveDateTime::parse_from_str(value, format).ok())
        {
            self.zone.start_of(crate::id::Day::from_date(local.date()))
                + local.time().signed_duration_since(chrono::NaiveTime::MIN)
        } else {
            // A day alone: a time that is not one is not passed over.
            if value.contains([' ', 'T', ':'])
                && !value.bytes().all(|byte| matches!(byte, b'0' | b'-' | b'/' | b'.' | b' ' | b':'))
            {
                return Err(("date_invalid", Cow::Borrowed("it is not a time of a day")));
            }
            match day(self.options.date_format, value)? {
                Some(day) => self.zone.start_of(crate::id::Day::from_date(day)),
                None => return Ok(None),
            }
        };
        if at > self.now {
            return Err(("date_invalid", Cow::Borrowed("it is in the future")));
        }
        Ok(Some(at))
    }
}

/// The text of a field, none if it is not in the encoding.
pub fn decode(encoding: Encoding, field: &[u8]) -> Option<Cow<'_, str>> {
    match encoding {
        Encoding::Utf8 => std::str::from_utf8(field).ok().map(Cow::Borrowed),
        Encoding::Gb18030 => encoding_rs::GB18030.decode_without_bom_handling_and_without_replacement(field),
    }
}

/// A value, unless it is what older systems write for none.
pub(crate) fn known(text: &str) -> Option<&str> {
    const UNKNOWN: [&str; 8] = ["null", "\\n", "n/a", "none", "nil", "undefined", "-", "(null)"];
    let value = text.trim();
    let none = value.is_empty() || UNKNOWN.iter().any(|unknown| value.eq_ignore_ascii_case(unknown));
    (!none).then_some(value)
}

fn gender(value: &str) -> Result<Option<Gender>, &'static str> {
    Ok(Some(match value.to_lowercase().as_str() {
        "0" | "9" | "u" | "unknown" | "未知" | "保密" => return Ok(None),
        "1" | "m" | "male" | "男" => Gender::Male,
        "2" | "f" | "female" | "女" => Gender::Female,
        "o" | "other" => Gender::Other,
        _ => return Err("must be male (m, 1, 男), female (f, 2, 女), other (o) or unknown (u, 0)"),
    }))
}

/// A day, unless it is what older systems write for none.
fn day(format: DateFormat, value: &str) -> Result<Option<NaiveDate>, (&'static str, Cow<'static, str>)> {
    let refused = || ("date_invalid", Cow::Borrowed("it is not a day of the calendar in the file's format"));
    if value.bytes().all(|byte| matches!(byte, b'0' | b'-' | b'/' | b'.')) {
        return Ok(None);
    }
    // Of a time the day counts.
    let value = value.split([' ', 'T']).next().unwrap_or_default();
    let parts: Vec<&str> =
        if format == DateFormat::Ymd && value.len() == 8 && value.bytes().all(|byte| byte.is_ascii_digit()) {
            vec![&value[..4], &value[4..6], &value[6..]]
        } else {
            value.split(['-', '/', '.']).collect()
        };
    let numbers: Option<Vec<u32>> = parts
        .iter()
        .map(|part| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten())
        .collect();
    let numbers = numbers.filter(|numbers| numbers.len() == 3).ok_or_else(refused)?;
    let (year_at, year, month, day) = match format {
        DateFormat::Ymd => (0, numbers[0], numbers[1], numbers[2]),
        DateFormat::Dmy => (2, numbers[2], numbers[1], numbers[0]),
        DateFormat::Mdy => (2, numbers[2], numbers[0], numbers[1]),
    };
    // Of two digits nobody knows the century.
    if parts[year_at].len() != 4 {
        return Err(refused());
    }
    let day = NaiveDate::from_ymd_opt(year as i32, month, day).ok_or_else(refused)?;
    Ok((day != NaiveDate::from_ymd_opt(1900, 1, 1).expect("a day of the calendar")).then_some(day))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        chain::{IdShape, RegistryState},
        member::{Source, import::column::Columns},
        secret::SecretFile,
    };

    const NAMES: &str =
        "phone,email,card,external:crm,name,nickname,gender,birthday,store_id,level,state,created_at,attr.kids";

    /// Reads one line of a file with the columns of [`NAMES`].
    fn read(line: &[u8], format: DateFormat, encoding: Encoding) -> Result<Draft, (Option<String>, String)> {
        let options = Options {
            columns: NAMES.split(',').map(str::to_owned).collect(),
            header: true,
            delimiter: ',',
            encoding,
            date_format: format,
            on_taken: Default::default(),
            source: Source::Import,
        };
        let mut rng = StdRng::seed_from_u64(1);
        let secrets = Secrets::new(&SecretFile::generate(&mut rng), rng);
        let reading = Reading {
            columns: &Columns::parse(&options.columns, None).unwrap().0,
            systems: &Systems::new([("crm".to_owned(), IdShape::String, RegistryState::Active)]),
            options: &options,
            region: Region::CHINA,
            stores: &HashMap::from([("S0001".to_owned(), StoreNo::new(1))]),
            secrets: &secrets,
            zone: Zone::DEFAULT,
            today: "2026-11-22".parse().unwrap(),
            now: "2026-11-22T02:00:00Z".parse().unwrap(),
        };
        let read = reading.read(Raw { ordinal: 1, line: 2, text: Some(line) });
        read.map_err(|failure| (failure.column, failure.code))
    }

    /// A line with a phone and one more field.
    fn with(at: usize, field: &str) -> Vec<u8> {
        let mut fields = vec![""; NAMES.split(',').count()];
        (fields[0], fields[at]) = ("13800000001", field);
        fields.join(",").into_bytes()
    }

    #[test]
    fn a_row_gives_what_it_says() {
        let line = "13800000001,Lin@Example.cn,a-1,7,林,Lin,女,1990-5-1,S0001,3,frozen,2020-01-02 03:04:05,0";
        let draft = read(line.as_bytes(), DateFormat::Ymd, Encoding::Utf8).ok().unwrap();
        let identifiers: Vec<&str> = draft.identifiers.iter().map(|one| one.identifier.normalised()).collect();
        assert_eq!(identifiers, ["+8613800000001", "lin@example.cn", "A1", "crm:7"]);
        assert_eq!((draft.name.as_deref(), draft.nickname.as_deref()), (Some("林"), Some("Lin")));
        assert_eq!((draft.gender, draft.level, draft.state), (Some(Gender::Female), Some(3), Some(State::Frozen)));
        assert_eq!(draft.birthday.unwrap().to_string(), "1990-05-01");
        assert_eq!(draft.created_at.unwrap().to_rfc3339(), "2020-01-01T19:04:05+00:00");
        assert_eq!(serde_json::to_string(&draft.attributes).unwrap(), r#"{"kids":"0"}"#);
    }

    #[test]
    fn what_older_systems_write_for_unknown_is_neither_data_nor_a_key() {
        for nothing in ["", " ", "null", "NULL", "\\N", "N/A", "none", "nil", "undefined", "-", "(null)"] {
            for at in 1..13 {
                let draft = read(&with(at, nothing), DateFormat::Ymd, Encoding::Utf8).ok().unwrap();
                assert_eq!(draft.identifiers.len(), 1, "{at} {nothing}");
                let empty = draft.name.is_none() && draft.nickname.is_none() && draft.gender.is_none();
                let empty = empty && draft.birthday.is_none() && draft.home_store_no.is_none();
                let empty = empty && draft.level.is_none() && draft.state.is_none() && draft.created_at.is_none();
                assert!(empty && draft.attributes.is_empty(), "{at} {nothing}");
            }
        }
        for (at, nothing) in [
            (1, "0"),
            (2, "00000000"),
            (3, "0"),
            (4, "0"),
            (6, "0"),
            (6, "unknown"),
            (7, "0"),
            (7, "0000-00-00"),
            (7, "00000000"),
            (7, "1900-01-01"),
            (8, "0"),
        ] {
            let draft = read(&with(at, nothing), DateFormat::Ymd, Encoding::Utf8).ok().unwrap();
            assert_eq!(draft.identifiers.len(), 1, "{at} {nothing}");
            assert!(draft.name.is_none() && draft.gender.is_none() && draft.birthday.is_none(), "{at} {nothing}");
        }
        let missing = read(b"0,NULL,000,,Lin,,,,,,,,", DateFormat::Ymd, Encoding::Utf8).err();
        assert_eq!(missing, Some((None, "identifier_missing".to_owned())));
    }

    #[test]
    fn days_are_read_in_the_file_s_order_and_no_other() {
        for (format, text, expected) in [
            (DateFormat::Ymd, "1990-05-01", Some("1990-05-01")),
            (DateFormat::Ymd, "1990/5/1", Some("1990-05-01")),
            (DateFormat::Ymd, "1990.5.01", Some("1990-05-01")),
            (DateFormat::Ymd, "19900501", Some("1990-05-01")),
            (DateFormat::Ymd, "1990-05-01 00:00:00", Some("1990-05-01")),
            (DateFormat::Ymd, "01/05/1990", None),
            (DateFormat::Ymd, "90-05-01", None),
            (DateFormat::Ymd, "1990-13-01", None),
            (DateFormat::Ymd, "1990-02-29", None),
            (DateFormat::Ymd, "1990-05-+1", None),
            (DateFormat::Ymd, "1990-05-01-01", None),
            (DateFormat::Ymd, "may", None),
            (DateFormat::Ymd, "1899-12-31", None),
            (DateFormat::Ymd, "2026-11-23", None),
            (DateFormat::Dmy, "01/05/1990", Some("1990-05-01")),
            (DateFormat::Mdy, "05/01/1990", Some("1990-05-01")),
            (DateFormat::Dmy, "1990-05-01", None),
            (DateFormat::Dmy, "01/05/90", None),
        ] {
            let read = read(&with(7, text), format, Encoding::Utf8);
            match (read, expected) {
                (Ok(draft), Some(day)) => assert_eq!(draft.birthday.unwrap().to_string(), day),
                (Err(bad), None) => assert_eq!(bad, (Some("birthday".into()), "date_invalid".into()), "{text}"),
                (read, _) => panic!("{format:?} {text}: {:?}", read.map(|draft| draft.birthday)),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_column_and_code() {
        let at = |column: &str, code: &str| Some((Some(column.to_owned()), code.to_owned()));
        for (field, text, expected) in [
            (1, "lin at example", at("email", "identifier_invalid")),
            (3, "a b", at("external:crm", "identifier_invalid")),
            (4, "x\u{1}", at("name", "value_invalid")),
            (5, &"x".repeat(33), at("nickname", "value_invalid")),
            (6, "x", at("gender", "value_invalid")),
            (8, "S9999", at("store_id", "store_not_found")),
            (9, "-1", at("level", "value_invalid")),
            (9, "1000", at("level", "value_invalid")),
            (10, "cancelled", at("state", "value_invalid")),
            (11, "2027-01-01", at("created_at", "date_invalid")),
            (11, "2019-02-03 24:61:00", at("created_at", "date_invalid")),
            (11, "2019-02-03 10:00+99:00", at("created_at", "date_invalid")),
            (4, "\"Lin\nMei\"", at("name", "value_invalid")),
            (12, &"x".repeat(257), at("attr.kids", "value_invalid")),
        ] {
            assert_eq!(read(&with(field, text), DateFormat::Ymd, Encoding::Utf8).err(), expected, "{text}");
        }
        assert_eq!(read(b"1,2", DateFormat::Ymd, Encoding::Utf8).err(), Some((None, "row_malformed".into())));
        let latin = [with(4, "").as_slice(), b"\xe9"].concat();
        assert_eq!(
            read(&latin, DateFormat::Ymd, Encoding::Utf8).err(),
            at("attr.kids", "encoding_invalid"),
            "not UTF-8"
        );
    }
}
