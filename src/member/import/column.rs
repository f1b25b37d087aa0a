//! The columns of a file of members.
//!
//! `phone`, `email`, `username`, `card`, `row_key`, `external:<system>` and the social kinds (`wechat:<app>`,
//! `wechat_union`, `qq`, `weibo`, `tencent_weibo`) are identifiers; `name`, `nickname`, `gender`, `birthday`, `store_id`,
//! `level`, `state` (normal or frozen) and `created_at` are fields; `attr.<name>` is a custom attribute, kept as text; `-`
//! is passed over. Case does not matter but in the names of attributes. Each column comes once, `-` as often as it likes.

use std::{collections::HashSet, fmt};

use crate::{
    chain::system::Systems,
    member::{about::AttributeName, key::Kind},
};

/// Columns of a file; also as many as a member may have attributes.
pub const COLUMNS_MAX: usize = 64;

/// What a column is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Column {
    Identifier(Kind),
    /// An identifier that is written after this prefix, colon included: of an external system, or social.
    Prefixed(Kind, String),
    Name,
    Nickname,
    Gender,
    Birthday,
    Store,
    Level,
    State,
    CreatedAt,
    Attribute(AttributeName),
    Ignored,
}

/// The columns of a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(pub Vec<Column>);

/// Why the columns of a file are none that can be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadColumns {
    #[error("the first line is not well-formed CSV")]
    Malformed,
    #[error("the first line is not text in the file's encoding")]
    Encoding,
    #[error("the file is empty")]
    Empty,
    #[error("there are more than {COLUMNS_MAX} columns")]
    TooMany,
    #[error("there are columns that are not known: say `-` for what is to be passed over")]
    Unknown(Vec<String>),
    #[error("there are columns that come twice")]
    Repeated(Vec<String>),
    #[error("there is no column of an identifier: phone, email, username, card, row_key or external:<system>")]
    NoIdentifier,
}

impl Columns {
    /// `systems` is given where it matters whether an external system is registered: not for a job that is under way.
    ///
    /// # Errors
    /// [`BadColumns`]
    pub fn parse(names: &[String], systems: Option<&Systems>) -> Result<Self, BadColumns> {
        if names.iter().all(|name| name.trim().is_empty()) {
            return Err(BadColumns::Empty);
        }
        if names.len() > COLUMNS_MAX {
            return Err(BadColumns::TooMany);
        }
        let columns: Vec<Option<Column>> = names.iter().map(|name| Column::parse(name, systems)).collect();
        let named = |which: &dyn Fn(usize) -> bool| -> Vec<String> {
            (0..names.len()).filter(|&at| which(at)).map(|at| shorten(&names[at])).collect()
        };
        let unknown = named(&|at| columns[at].is_none());
        if !unknown.is_empty() {
            return Err(BadColumns::Unknown(unknown));
        }
        let columns: Vec<Column> = columns.into_iter().flatten().collect();
        let mut seen = HashSet::new();
        let is_repeated: Vec<bool> =
            columns.iter().map(|column| *column != Column::Ignored && !seen.insert(column)).collect();
        let repeated = named(&|at| is_repeated[at]);
        if !repeated.is_empty() {
            return Err(BadColumns::Repeated(repeated));
        }
        if !columns.iter().any(|column| matches!(column, Column::Identifier(_) | Column::Prefixed(..))) {
            return Err(BadColumns::NoIdentifier);
        }
        Ok(Self(columns))
    }
}

/// A name out of a file that may be anything: of a file without a header, a phone number.
fn shorten(name: &str) -> String {
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    if digits > 4 || name.contains('@') {
        return "(not a name)".to_owned();
    }
    name.chars().filter(|c| !c.is_control()).take(32).collect()
}

impl Column {
    fn parse(name: &str, systems: Option<&Systems>) -> Option<Self> {
        let name = name.trim();
        if let Some(attribute) = name.strip_prefix("attr.") {
            return AttributeName::parse(attribute).ok().map(Self::Attribute);
        }
        let prefixed = |kind, prefix: &str| Some(Self::Prefixed(kind, format!("{prefix}:")));
        let lower = name.to_ascii_lowercase();
        match lower.split_once(':') {
            Some(("external", system)) if systems.is_none_or(|known| known.active().any(|one| one == system)) => {
                return prefixed(Kind::External, system);
            }
            // The case of an app's id is its own.
            Some(("wechat", app)) if !app.is_empty() => {
                return prefixed(Kind::Wechat, &format!("wechat:{}", &name[7..]));
            }
            Some(_) => return None,
            None => {}
        }
        Some(match lower.as_str() {
            "phone" => Self::Identifier(Kind::Phone),
            "email" => Self::Identifier(Kind::Email),
            "username" => Self::Identifier(Kind::Username),
            "card" => Self::Identifier(Kind::Card),
            "row_key" => return prefixed(Kind::RowKey, "row-key"),
            "wechat_union" => return prefixed(Kind::WechatUnion, "wechat-union"),
            "qq" => return prefixed(Kind::Qq, "qq"),
            "weibo" => return prefixed(Kind::Weibo, "weibo"),
            "tencent_weibo" => return prefixed(Kind::TencentWeibo, "tencent-weibo"),
            "name" => Self::Name,
            "nickname" => Self::Nickname,
            "gender" => Self::Gender,
            "birthday" => Self::Birthday,
            "store_id" => Self::Store,
            "level" => Self::Level,
            "state" => Self::State,
            "created_at" => Self::CreatedAt,
            "-" => Self::Ignored,
            _ => return None,
        })
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identifier(kind) => write!(f, "identifier {kind}"),
            Self::Prefixed(kind, prefix) => write!(f, "identifier {kind}, {prefix}…"),
            Self::Name => f.write_str("name"),
            Self::Nickname => f.write_str("nickname"),
            Self::Gender => f.write_str("gender"),
            Self::Birthday => f.write_str("birthday"),
            Self::Store => f.write_str("home store"),
            Self::Level => f.write_str("level"),
            Self::State => f.write_str("state"),
            Self::CreatedAt => f.write_str("when it was registered"),
            Self::Attribute(name) => write!(f, "attribute {name}"),
            Self::Ignored => f.write_str("nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{IdShape, RegistryState};

    fn columns(header: &str) -> Result<Vec<Column>, BadColumns> {
        let systems = Systems::new([("crm".to_owned(), IdShape::String, RegistryState::Active)]);
        let names: Vec<String> = header.split(',').map(str::to_owned).collect();
        Columns::parse(&names, Some(&systems)).map(|columns| columns.0)
    }

    #[test]
    fn columns_are_known_by_name_and_what_is_not_is_named() {
        let attribute = |name: &str| Column::Attribute(AttributeName::parse(name).unwrap());
        assert_eq!(
            columns(" Phone ,external:crm,attr.Age,-,-"),
            Ok(vec![
                Column::Identifier(Kind::Phone),
                Column::Prefixed(Kind::External, "crm:".into()),
                attribute("Age"),
                Column::Ignored,
                Column::Ignored,
            ])
        );
        assert_eq!(
            columns("wechat:wxApp,row_key").unwrap()[0],
            Column::Prefixed(Kind::Wechat, "wechat:wxApp:".to_owned())
        );
        for (header, error) in [
            ("", BadColumns::Empty),
            ("name", BadColumns::NoIdentifier),
            ("phone,shoe size,external:erp", BadColumns::Unknown(vec!["shoe size".into(), "external:erp".into()])),
            ("phone,PHONE", BadColumns::Repeated(vec!["PHONE".into()])),
            ("13800000001,lin@example.cn", BadColumns::Unknown(vec!["(not a name)".into(); 2])),
            ("phone,attr.", BadColumns::Unknown(vec!["attr.".into()])),
            ("phone,attr.a b", BadColumns::Unknown(vec!["attr.a b".into()])),
            (&format!("phone{}", ",-".repeat(64)), BadColumns::TooMany),
        ] {
            assert_eq!(columns(header), Err(error), "{header}");
        }
    }
}
