//! Where things are sent. A member with addresses has exactly one default: the first becomes it, another can be made it,
//! and when it is deleted the one that was changed last follows. Every edit holds the member's row, so that two never
//! decide over the same state; the unique index `member_address_default` is the referee of 'at most one'.
//!
//! # What answers show
//!
//! Of the receiver the first character, of the phone its mask, of the detail the first three characters; of coordinates
//! two decimals. Country to district, postcode and label stand as they are. [`store::AddressRow::open`] gives the
//! whole, for whoever may see it and writes that down.

pub mod http;
pub mod store;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use self::store::AddressRow;
use super::{
    edit::{Edit, Edited, Editing},
    family::{self, mask_text},
    key::{self, Identifier},
    log::What,
    mask_name,
    place::{Coordinates, PlaceName},
    state::Action,
};
use crate::{
    coupon::decide::millis,
    db::lane::WriteError,
    id::{AddressId, MemberId},
    problem::{Code, Refusal},
    text_type,
};

/// Addresses of one member at most.
pub const ADDRESSES_MAX: usize = 50;
const DETAIL_SHOWN_CHARS: usize = 3;

text_type! {
    /// Who takes a parcel.
    Receiver: text 1..=64, "Lin";
    /// Street, house, door.
    Detail: text 1..=256, "Nanjing Road 1, room 702";
    Postcode: word 1..=16, "200001";
    /// What the member calls an address.
    Label: text 1..=32, "home";
}

/// What an address says, unmasked. Holds personal data, so `Debug` shows none of it.
#[derive(Clone, PartialEq)]
pub struct Content {
    pub receiver: Receiver,
    /// E.164.
    pub phone: Option<String>,
    pub province: Option<PlaceName>,
    pub city: Option<PlaceName>,
    pub district: Option<PlaceName>,
    pub detail: Detail,
    pub postcode: Option<Postcode>,
    pub label: Option<Label>,
    pub coordinates: Option<Coordinates>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

/// An address, unmasked.
#[derive(Debug, Clone)]
pub struct OpenAddress {
    pub member_id: MemberId,
    pub address_id: AddressId,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i32,
    pub is_default: bool,
    pub content: Content,
}

/// An address as answers show it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Address {
    pub address_id: AddressId,
    /// Of a member's addresses, exactly one.
    pub is_default: bool,
    /// The first character and one star.
    #[schema(example = "L*")]
    pub receiver: String,
    /// Masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "+86138****0001")]
    pub phone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub province: Option<PlaceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<PlaceName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub district: Option<PlaceName>,
    /// The first three characters and stars.
    #[schema(example = "Nan***")]
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcode: Option<Postcode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// To two decimals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinates: Option<Coordinates>,
    /// Counts changes, from 1; the entity tag.
    pub version: i32,
    #[serde(serialize_with = "millis")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    pub updated_at: DateTime<Utc>,
}

impl From<OpenAddress> for Address {
    fn from(open: OpenAddress) -> Self {
        let content = open.content;
        Self {
            address_id: open.address_id,
            is_default: open.is_default,
            receiver: mask_name(content.receiver.as_str()),
            phone: content.phone.map(|phone| Identifier::from_stored(key::Kind::Phone, phone).mask()),
            province: content.province,
            city: content.city,
            district: content.district,
            detail: mask_text(content.detail.as_str(), DETAIL_SHOWN_CHARS),
            postcode: content.postcode,
            label: content.label,
            coordinates: content.coordinates.map(Coordinates::coarse),
            version: open.version,
            created_at: open.created_at,
            updated_at: open.updated_at,
        }
    }
}

/// What to change; what is `None` stays, and `Some(None)` clears.
#[derive(Clone, Default)]
pub struct Change {
    pub receiver: Option<Receiver>,
    pub phone: Option<Option<String>>,
    pub province: Option<Option<PlaceName>>,
    pub city: Option<Option<PlaceName>>,
    pub district: Option<Option<PlaceName>>,
    pub detail: Option<Detail>,
    pub postcode: Option<Option<Postcode>>,
    pub label: Option<Option<Label>>,
    pub coordinates: Option<Option<Coordinates>>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change").finish_non_exhaustive()
    }
}

impl Change {
    /// Changes the content and gives the names of what is another now.
    fn apply(&self, content: &mut Content) -> Vec<&'static str> {
        fn set<T: Clone + PartialEq>(to: &Option<T>, is: &mut T) -> bool {
            let changes = to.as_ref().is_some_and(|to| to != is);
            if let Some(to) = to.as_ref().filter(|_| changes) {
                is.clone_from(to);
            }
            changes
        }
        let fields = [
            ("receiver", set(&self.receiver, &mut content.receiver)),
            ("phone", set(&self.phone, &mut content.phone)),
            ("province", set(&self.province, &mut content.province)),
            ("city", set(&self.city, &mut content.city)),
            ("district", set(&self.district, &mut content.district)),
            ("detail", set(&self.detail, &mut content.detail)),
            ("postcode", set(&self.postcode, &mut content.postcode)),
            ("label", set(&self.label, &mut content.label)),
            ("coordinates", set(&self.coordinates, &mut content.coordinates)),
        ];
        fields.into_iter().filter_map(|(name, changed)| changed.then_some(name)).collect()
    }
}

async fn load(on: &mut Editing<'_, '_>) -> Result<Vec<OpenAddress>, WriteError> {
    let member_id = on.member_id();
    let rows: Vec<AddressRow> = family::rows(on.tx, member_id).await?;
    let open = rows.iter().map(|row| row.open(on.secrets));
    open.collect::<Result<_, _>>().map_err(WriteError::Inconsistent)
}

/// Takes the default from the address that has it, before another gets it: the referee looks after each row.
async fn clear_default(on: &mut Editing<'_, '_>, all: &mut [OpenAddress]) -> Result<(), WriteError> {
    if let Some(open) = all.iter_mut().find(|open| open.is_default) {
        open.is_default = false;
        write(on, open).await?;
    }
    Ok(())
}

async fn write(on: &mut Editing<'_, '_>, open: &mut OpenAddress) -> Result<(), WriteError> {
    open.updated_at = on.now;
    store::update_address(on.tx, on.secrets, open).await
}

/// Adds an address. One that says the same as another is not added: a repetition meets the first.
#[derive(Debug)]
pub struct AddAddress {
    pub content: Content,
    /// Also when it is not the first.
    pub is_default: bool,
}

impl Edit for AddAddress {
    /// And whether it is new.
    type Done = (Address, bool);

    const WHAT: What = What::Address;
    const ACTION: Action = Action::Change;

    fn actions(&self) -> Vec<Action> {
        vec![Action::Change, Action::Identify]
    }

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Self::Done>, Refusal>, WriteError> {
        let mut all = load(on).await?;
        if let Some(at) = all.iter().position(|open| open.content == self.content) {
            if !self.is_default || all[at].is_default {
                return Ok(Ok(Edited::nothing((all.swap_remove(at).into(), false))));
            }
            clear_default(on, &mut all).await?;
            let mut open = all.swap_remove(at);
            open.is_default = true;
            write(on, &mut open).await?;
            let body = changed(&open, &["is_default"]);
            return Ok(Ok(Edited::detail((open.into(), false), body)));
        }
        if all.len() >= ADDRESSES_MAX {
            return Ok(Err(Refusal::new(Code::AddressLimitReached).with("limit", ADDRESSES_MAX)));
        }
        let is_default = self.is_default || all.is_empty();
        if is_default {
            clear_default(on, &mut all).await?;
        }
        let open = OpenAddress {
            member_id: on.member_id(),
            address_id: AddressId::new(on.minted).map_err(|error| WriteError::Inconsistent(error.to_string()))?,
            created_at: on.now,
            updated_at: on.now,
            version: 1,
            is_default,
            content: self.content.clone(),
        };
        store::insert_address(on.tx, on.secrets, &open).await?;
        let body = json!({ "did": "added", "address_id": open.address_id, "is_default": is_default });
        Ok(Ok(Edited::detail((open.into(), true), body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Self::Done, WriteError> {
        let minted = on.minted;
        let mut all = load(on).await?;
        let at = all.iter().position(|open| open.address_id.get() == minted || open.content == self.content);
        let open = all.swap_remove(at.ok_or(WriteError::Again("an address that was written is gone"))?);
        let is_new = open.address_id.get() == minted;
        Ok((open.into(), is_new))
    }
}

fn changed(open: &OpenAddress, fields: &[&str]) -> serde_json::Value {
    json!({ "did": "changed", "address_id": open.address_id, "version": open.version, "fields": fields })
}

/// Changes an address, makes it the default, or both.
#[derive(Debug)]
pub struct ChangeAddress {
    pub address_id: AddressId,
    /// Versions that the caller has seen; `None` is any.
    pub versions: Option<Vec<i64>>,
    pub change: Change,
    pub is_default: Option<bool>,
}

impl Edit for ChangeAddress {
    type Done = Address;

    const WHAT: What = What::Address;
    const ACTION: Action = Action::Change;

    fn actions(&self) -> Vec<Action> {
        vec![Action::Change, Action::Identify]
    }

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<Address>, Refusal>, WriteError> {
        let mut all = load(on).await?;
        let at = match find(&all, self.address_id, self.versions.as_deref()) {
            Ok(at) => at,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.is_default == Some(false) && all[at].is_default {
            let reason = "a member with addresses has a default: make another the default";
            return Ok(Err(Refusal::invalid_field("is_default", reason)));
        }
        let gains = self.is_default == Some(true) && !all[at].is_default;
        let mut fields = self.change.apply(&mut all[at].content);
        if gains {
            clear_default(on, &mut all).await?;
            all[at].is_default = true;
            fields.push("is_default");
        }
        let mut open = all.swap_remove(at);
        if fields.is_empty() {
            return Ok(Ok(Edited::nothing(open.into())));
        }
        write(on, &mut open).await?;
        let body = changed(&open, &fields);
        Ok(Ok(Edited::detail(open.into(), body)))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<Address, WriteError> {
        let mut all = load(on).await?;
        let at = all.iter().position(|open| open.address_id == self.address_id);
        Ok(all.swap_remove(at.ok_or(WriteError::Again("an address that was written is gone"))?).into())
    }
}

/// # Errors
/// `address_not_found`, `precondition_failed`.
fn find(all: &[OpenAddress], address_id: AddressId, versions: Option<&[i64]>) -> Result<usize, Refusal> {
    let at = all.iter().position(|open| open.address_id == address_id).ok_or(Code::AddressNotFound)?;
    let version = all[at].version;
    if versions.is_some_and(|seen| !seen.contains(&version.into())) {
        return Err(Refusal::new(Code::PreconditionFailed).with("version", version));
    }
    Ok(at)
}

/// Deletes an address. Of those that are left the one that was changed last becomes the default, if this was it.
#[derive(Debug)]
pub struct DeleteAddress(pub AddressId);

impl Edit for DeleteAddress {
    type Done = ();

    const WHAT: What = What::Address;
    const ACTION: Action = Action::Change;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<()>, Refusal>, WriteError> {
        let mut all = load(on).await?;
        let gone = match find(&all, self.0, None) {
            Ok(at) => all.swap_remove(at),
            Err(refusal) => return Ok(Err(refusal)),
        };
        store::delete_address(on.tx, gone.member_id, gone.address_id).await?;
        let mut heir = None;
        if gone.is_default
            && let Some(open) = all.iter_mut().max_by_key(|open| (open.updated_at, open.address_id))
        {
            open.is_default = true;
            write(on, open).await?;
            heir = Some(open.address_id);
        }
        let body = json!({ "did": "deleted", "address_id": gone.address_id, "default": heir });
        Ok(Ok(Edited::detail((), body)))
    }

    async fn read(&self, _: &mut Editing<'_, '_>) -> Result<(), WriteError> {
        Ok(())
    }
}
