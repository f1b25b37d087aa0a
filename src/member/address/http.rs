//! Addresses over HTTP.

use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AddAddress, Address, Change, ChangeAddress, Content, DeleteAddress, Detail, Label, Postcode, Receiver};
use crate::{
    app::App,
    db::lane::LaneError,
    http::{
        Answer, ApiError, At, Caller, ETag, IfMatch, Json, Reply, Routes,
        input::{nullable, present},
    },
    id::{AddressId, MemberId},
    member::{
        http::{IdentifierText, must_exist, run_edit},
        identifier,
        key::{Identifier, Kind, Region},
        place::{Coordinates, PlaceName},
    },
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_addresses: MemberNotFound;
        create_address: IdentifierInvalid, MemberNotFound, MemberErased, MemberCancelled, AddressLimitReached,
            MemberKindForbidden;
        get_address: MemberNotFound, AddressNotFound;
        update_address: IdentifierInvalid, MemberNotFound, MemberErased, MemberCancelled, AddressNotFound,
            MemberKindForbidden;
        delete_address: MemberNotFound, MemberErased, MemberCancelled, AddressNotFound;
        make_default_address: MemberNotFound, MemberErased, MemberCancelled, AddressNotFound, MemberKindForbidden;
    }
}

/// All addresses of a member.
#[derive(Serialize, ToSchema)]
struct Addresses {
    items: Vec<Address>,
}

/// An address to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewAddress {
    receiver: Receiver,
    /// Numbers without a country code are of the chain's country. An empty one counts as absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "+8613800000001")]
    phone: Option<IdentifierText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    province: Option<PlaceName>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    city: Option<PlaceName>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    district: Option<PlaceName>,
    detail: Detail,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    postcode: Option<Postcode>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    label: Option<Label>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    coordinates: Option<Coordinates>,
    /// The first address is the default in any case.
    #[serde(default)]
    is_default: bool,
}

/// What to change of an address; what is absent stays, and null clears.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddressPatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    receiver: Option<Receiver>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<IdentifierText>, example = "+8613800000001")]
    phone: Option<Option<IdentifierText>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<PlaceName>)]
    province: Option<Option<PlaceName>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<PlaceName>)]
    city: Option<Option<PlaceName>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<PlaceName>)]
    district: Option<Option<PlaceName>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    detail: Option<Detail>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Postcode>)]
    postcode: Option<Option<Postcode>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Label>)]
    label: Option<Option<Label>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Coordinates>)]
    coordinates: Option<Option<Coordinates>>,
    /// True makes it the default. The default cannot be made none: make another the default.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    is_default: Option<bool>,
}

/// # Errors
/// `identifier_invalid`
fn phone(region: Region, text: &IdentifierText) -> Result<Option<String>, Refusal> {
    Ok(identifier(region, Kind::Phone, text.as_str())?.map(Identifier::into_normalised))
}

/// List a member's addresses
#[utoipa::path(get, path = "/v1/members/{member_id}/addresses", tag = "members",
    params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All of them, the default first, then by age", body = Addresses)))]
async fn list_addresses(app: Data<App>, At(member_id): At<MemberId>) -> Reply<Addresses> {
    let family = &app.members.family;
    let (rows, mut cost) = family.addresses.find(member_id).await?;
    if rows.is_none() {
        must_exist(&app, member_id, &mut cost).await?;
    }
    let rows = rows.iter().flat_map(|rows| rows.iter());
    let items = rows.map(|row| Ok(row.open(&family.secrets)?.into())).collect::<Result<_, String>>();
    let items = items.map_err(|what| LaneError::Inconsistent(what.into()))?;
    Ok(Answer::ok(Addresses { items }).metered(cost.into()))
}

/// Add an address
///
/// One that says the same as an address of the member is not added again: the answer is that one, with 200. Checked in
/// this order: path, body, phone, whether the member exists, is not erased, not cancelled and not virtual, the limit of
/// 50 addresses.
#[utoipa::path(post, path = "/v1/members/{member_id}/addresses", tag = "members",
    params(("member_id" = MemberId, Path)),
    responses((status = 201, description = "The address", body = Address,
            headers(("ETag" = String), ("Location" = String))),
        (status = 200, description = "The address that says the same", body = Address, headers(("ETag" = String)))))]
async fn create_address(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(new): Json<NewAddress>,
) -> Reply<Address> {
    let phone = match &new.phone {
        Some(text) => phone(app.region, text)?,
        None => None,
    };
    let content = Content {
        receiver: new.receiver,
        phone,
        province: new.province,
        city: new.city,
        district: new.district,
        detail: new.detail,
        postcode: new.postcode,
        label: new.label,
        coordinates: new.coordinates,
    };
    let edit = AddAddress { content, is_default: new.is_default };
    let ((address, is_new), cost) = run_edit(&app, &caller, member_id, edit).await?;
    let etag = ETag::version(address.version);
    let location = format!("/v1/members/{member_id}/addresses/{}", address.address_id);
    let answer = if is_new { Answer::created(address, location) } else { Answer::ok(address) };
    Ok(answer.etag(etag).metered(cost.into()))
}

/// Get an address
#[utoipa::path(get, path = "/v1/members/{member_id}/addresses/{address_id}", tag = "members",
    params(("member_id" = MemberId, Path), ("address_id" = AddressId, Path)),
    responses((status = 200, description = "The address", body = Address, headers(("ETag" = String)))))]
async fn get_address(app: Data<App>, At((member_id, address_id)): At<(MemberId, AddressId)>) -> Reply<Address> {
    let family = &app.members.family;
    let (rows, mut cost) = family.addresses.find(member_id).await?;
    let Some(row) = rows.iter().flat_map(|rows| rows.iter()).find(|row| row.address_id == address_id) else {
        if rows.is_none() {
            must_exist(&app, member_id, &mut cost).await?;
        }
        return Err(ApiError::from(Code::AddressNotFound).metered(cost.into()));
    };
    let open = row.open(&family.secrets).map_err(|what| LaneError::Inconsistent(what.into()))?;
    let etag = ETag::version(open.version);
    Ok(Answer::ok(open.into()).etag(etag).metered(cost.into()))
}

/// Change an address
///
/// A change to what is so already changes nothing. Checked in this order: path, `If-Match`, body, phone, whether the
/// member exists, is not erased, not cancelled and not virtual, whether there is such an address, whether it has a
/// version that `If-Match` names, `is_default`.
#[utoipa::path(patch, path = "/v1/members/{member_id}/addresses/{address_id}", tag = "members",
    params(("member_id" = MemberId, Path), ("address_id" = AddressId, Path), ("If-Match" = inline(IfMatch), Header)),
    responses((status = 200, description = "The address as it is now", body = Address, headers(("ETag" = String)))))]
async fn update_address(
    app: Data<App>,
    caller: Caller,
    At((member_id, address_id)): At<(MemberId, AddressId)>,
    seen: IfMatch,
    Json(patch): Json<AddressPatch>,
) -> Reply<Address> {
    let phone = match &patch.phone {
        Some(Some(text)) => Some(phone(app.region, text)?),
        Some(None) => Some(None),
        None => None,
    };
    let change = Change {
        receiver: patch.receiver,
        phone,
        province: patch.province,
        city: patch.city,
        district: patch.district,
        detail: patch.detail,
        postcode: patch.postcode,
        label: patch.label,
        coordinates: patch.coordinates,
    };
    let versions = seen.versions().map(<[i64]>::to_vec);
    let edit = ChangeAddress { address_id, versions, change, is_default: patch.is_default };
    change_address(&app, &caller, member_id, edit).await
}

async fn change_address(app: &App, caller: &Caller, member_id: MemberId, edit: ChangeAddress) -> Reply<Address> {
    let (address, cost) = run_edit(app, caller, member_id, edit).await?;
    let etag = ETag::version(address.version);
    Ok(Answer::ok(address).etag(etag).metered(cost.into()))
}

/// Delete an address
///
/// If it was the default, the one that was changed last follows. Checked in this order: path, whether the member
/// exists, is not erased and not cancelled, whether there is such an address.
#[utoipa::path(delete, path = "/v1/members/{member_id}/addresses/{address_id}", tag = "members",
    params(("member_id" = MemberId, Path), ("address_id" = AddressId, Path)),
    responses((status = 204, description = "It is gone")))]
async fn delete_address(
    app: Data<App>,
    caller: Caller,
    At((member_id, address_id)): At<(MemberId, AddressId)>,
) -> Reply<()> {
    let ((), cost) = run_edit(&app, &caller, member_id, DeleteAddress(address_id)).await?;
    Ok(Answer::no_content().metered(cost.into()))
}

/// Make an address the default
///
/// Again changes nothing. Checked in this order: path, whether the member exists, is not erased, not cancelled and not
/// virtual, whether there is such an address.
#[utoipa::path(post, path = "/v1/members/{member_id}/addresses/{address_id}/default", tag = "members",
    params(("member_id" = MemberId, Path), ("address_id" = AddressId, Path)),
    responses((status = 200, description = "The address as it is now", body = Address, headers(("ETag" = String)))))]
async fn make_default_address(
    app: Data<App>,
    caller: Caller,
    At((member_id, address_id)): At<(MemberId, AddressId)>,
) -> Reply<Address> {
    let edit = ChangeAddress { address_id, versions: None, change: Change::default(), is_default: Some(true) };
    change_address(&app, &caller, member_id, edit).await
}
