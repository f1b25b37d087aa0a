//! Labels that marketing and services put on members. Not for personal data: they stand unencrypted and in URLs.

pub mod http;
pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use self::store::TagRow;
use super::{
    edit::{Edit, Edited, Editing},
    family,
    log::What,
    state::Action,
};
use crate::{
    coupon::decide::millis,
    db::lane::WriteError,
    problem::{Code, Refusal},
    text_type,
};

/// Tags of one member at most.
pub const TAGS_MAX: usize = 100;

text_type! {
    /// A label.
    Tag: text 1..=32, "likes-tea";
}

/// A label on a member.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Tagged {
    #[schema(value_type = Tag)]
    pub tag: String,
    #[serde(serialize_with = "millis")]
    pub tagged_at: DateTime<Utc>,
    /// The name of the API key that put it there.
    pub tagged_by: String,
}

/// Puts tags on a member and takes others off. What is so already stays as it is.
#[derive(Debug)]
pub struct ChangeTags {
    add: Vec<Tag>,
    remove: Vec<Tag>,
}

impl ChangeTags {
    /// # Errors
    /// `invalid_field` when a tag stands in both, or a new one looks like a phone number or an e-mail address.
    pub fn new(mut add: Vec<Tag>, mut remove: Vec<Tag>) -> Result<Self, Refusal> {
        for tags in [&mut add, &mut remove] {
            tags.sort_unstable();
            tags.dedup();
        }
        if add.iter().any(|tag| super::names_somebody(tag.as_str())) {
            return Err(Refusal::invalid_field("tag", "must not hold a phone number or an e-mail address"));
        }
        if remove.iter().any(|tag| add.contains(tag)) {
            return Err(Refusal::invalid_field("remove", "a tag stands in add and in remove"));
        }
        Ok(Self { add, remove })
    }
}

impl Edit for ChangeTags {
    type Done = Vec<Tagged>;

    const WHAT: What = What::Tag;
    const ACTION: Action = Action::Change;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Self::Done>, Refusal>, WriteError> {
        let member_id = on.member_id();
        let mut rows: Vec<TagRow> = family::rows(on.tx, member_id).await?;
        let has = |tag: &&Tag| rows.iter().any(|row| row.tag == tag.as_str());
        let added: Vec<&str> = self.add.iter().filter(|tag| !has(tag)).map(Tag::as_str).collect();
        let removed: Vec<&str> = self.remove.iter().filter(has).map(Tag::as_str).collect();
        if added.is_empty() && removed.is_empty() {
            return Ok(Ok(Edited::nothing(show(&rows))));
        }
        if rows.len() + added.len() - removed.len() > TAGS_MAX {
            return Ok(Err(Refusal::new(Code::TagLimitReached).with("limit", TAGS_MAX)));
        }
        store::delete_tags(on.tx, member_id, &removed).await?;
        rows.retain(|row| !removed.contains(&row.tag.as_str()));
        let new = |tag: &&str| TagRow {
            member_id,
            tagged_at: on.now,
            tag: (*tag).to_owned(),
            tagged_by: on.actor.name.to_string(),
        };
        let new: Vec<TagRow> = added.iter().map(new).collect();
        store::insert_tags(on.tx, &new).await?;
        rows.extend(new);
        rows.sort_unstable_by(|one, other| one.tag.cmp(&other.tag));
        // How many, not which: logs and events outlive an erasure, and a label may tell who somebody was.
        let body = json!({ "added": added.len(), "removed": removed.len() });
        Ok(Ok(Edited::detail(show(&rows), body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Self::Done, WriteError> {
        let member_id = on.member_id();
        Ok(show(&family::rows(on.tx, member_id).await?))
    }
}

/// By name.
pub fn show(rows: &[TagRow]) -> Vec<Tagged> {
    let shown =
        |row: &TagRow| Tagged { tag: row.tag.clone(), tagged_at: row.tagged_at, tagged_by: row.tagged_by.clone() };
    rows.iter().map(shown).collect()
}
