//! Members over HTTP: register, look up, get, change.

use std::sync::Arc;

use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    About, Attributes, AttributesPatch, Avatar, EXTERNAL_MAX, Gender, Given, HomeStore, Identifiers,
    Kind as MemberKind, LEVEL_MAX, Member, NewMember, Source, State,
    cache::Shown,
    check_birthday,
    desk::MemberError,
    edit::{Actor, Edit},
    external, identifier, invalid_body,
    key::{self, Identifier, Region},
    mask::View,
    patch::Change,
};
use crate::{
    app::App,
    chain::{
        StoreId,
        deed::{Deed, Shop},
        key::Role,
        system::{Purpose, Systems},
    },
    coupon::{
        http::window,
        wallet::{
            Wallet,
            http::{standing, till_place},
        },
    },
    db::lane::Cost,
    http::{
        Answer, ApiError, At, Caller, ETag, IfMatch, Json, Number, Query, Reply, Routes,
        app::Shell,
        input::{Int, nullable, present},
        number::NumberText,
    },
    id::{Day, MemberId},
    meter::Meter,
    problem::{Code, Refusal},
    request::{Operation, RequestNumber},
    text_type,
};

text_type! {
    /// A real name.
    RealName: text 1..=64, "Lin";
    /// What a member wants to be called.
    Nickname: text 1..=32, "Linlin";
    /// A line that a member shows to others.
    Signature: text 1..=140, "Carpe diem";
}

pub fn routes() -> Routes {
    crate::routes! {
        register_member: IdentifierInvalid, StoreNotFound, StoreClosed, StoreSuspended, MemberKeyTaken;
        lookup_member: IdentifierInvalid, MemberNotFound;
        get_member: MemberNotFound;
        update_member: StoreNotFound, StoreClosed, StoreSuspended, MemberNotFound, MemberCancelled,
            MemberKindForbidden, MemberMuted, MemberStateForbidden, MemberErased;
    }
}

/// An identifier as people write it. It is normalised by the handler, which knows its kind; an empty one counts as
/// absent.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct IdentifierText(String);

impl IdentifierText {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl utoipa::PartialSchema for IdentifierText {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .max_length(Some(key::INPUT_BYTES_MAX))
            .into()
    }
}

impl ToSchema for IdentifierText {}

/// A member to be. At least one identifier is needed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    /// Numbers without a country code are of the chain's country.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "+8613800000001")]
    phone: Option<IdentifierText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "lin@example.cn")]
    email: Option<IdentifierText>,
    /// Case and width do not matter.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "lin")]
    username: Option<IdentifierText>,
    /// The number of a member card; spaces and hyphens do not matter.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "6688 0001")]
    card: Option<IdentifierText>,
    /// `<system>:<id>` of the external systems that are registered, such as web, app, crm and sport; also
    /// `wechat:<app>:<openid>`, `wechat-union:<id>`, `qq:<id>`, `weibo:<id>`, `tencent-weibo:<id>`,
    /// `oidc:<issuer>:<sub>`, and `row-key:<text>` for a row of an older system.
    #[serde(default)]
    #[schema(max_items = 8, example = json!(["web:42"]))]
    external: Vec<IdentifierText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<RealName>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    nickname: Option<Nickname>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    signature: Option<Signature>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    avatar: Option<Avatar>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    attributes: Option<Attributes>,
    /// Unknown if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    gender: Option<Gender>,
    /// From 1900 to today.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    birthday: Option<Day>,
    /// Unknown if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    source: Option<Source>,
    /// The home store; of a till's key, its own if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    store_id: Option<StoreId>,
}

const _: () = assert!(EXTERNAL_MAX == 8, "the schema above says so");

/// Register a member
///
/// Of many registrations of one identifier at once, one wins; the others get `member_key_taken` with the `kind` of the
/// first identifier that is taken and the `member_id` that has it. A request number is welcome: a repetition under it
/// gets the first answer, with the member as it is then. Checked in this order: identifiers (phone, e-mail, username,
/// card, external), birthday, attributes, store, request number, store closed or suspended, whether the identifiers are
/// free.
#[utoipa::path(post, path = "/v1/members", tag = "members",
    params(("Idempotency-Key" = inline(Option<NumberText>), Header, description = "The request's number")),
    responses((status = 201, description = "The member", body = Member,
        headers(("ETag" = String), ("Location" = String)))))]
async fn register_member(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    Json(body): Json<RegisterBody>,
) -> Reply<Member> {
    let text = |field: &Option<IdentifierText>| field.as_ref().map(|text| text.0.clone());
    let (phone, email, username, card) = (text(&body.phone), text(&body.email), text(&body.username), text(&body.card));
    let external: Vec<String> = body.external.into_iter().map(|text| text.0).collect();
    let given = Given {
        phone: phone.as_deref(),
        email: email.as_deref(),
        username: username.as_deref(),
        card: card.as_deref(),
        external: &external,
    };
    let systems = if external.is_empty() { Arc::default() } else { app.systems.get().await? };
    let identifiers = Identifiers::parse(app.region, &systems, given)?;
    let birthday = read_birthday(&shell, body.birthday)?;
    body.attributes.as_ref().map_or(Ok(()), Attributes::check)?;
    let home_store = match (&body.store_id, &caller.store) {
        (Some(store_id), _) => Some(home_store(&app, &caller, store_id).await?),
        (None, Some((_, own))) => Some(home_store(&app, &caller, own).await?),
        (None, None) => None,
    };
    // Told only when nothing was answered under the number before.
    let (home_store, refusal) = match home_store {
        Some(shop) => (Some(home_of(&shop)), shop.may(Deed::RegisterMember, business_date(&shell)).err()),
        None => (None, None),
    };
    let number = match &number.0 {
        Some(source) => Some(RequestNumber::new(&caller.scope(), Operation::Register, source, &window(&app, &shell))?),
        None => None,
    };
    let new = NewMember {
        identifiers,
        name: body.name.map(RealName::into_string),
        nickname: body.nickname.map(Nickname::into_string),
        gender: body.gender.unwrap_or(Gender::Unknown),
        birthday,
        source: body.source.unwrap_or(Source::Unknown),
        home_store,
        about: About {
            signature: body.signature.map(Signature::into_string),
            avatar: body.avatar,
            attributes: body.attributes.filter(|attributes| !attributes.0.is_empty()),
        },
    };
    let (mut answer, cost) = match (number, refusal) {
        (None, Some(refusal)) => return Err(refusal.into()),
        (number, refusal) => app.members.register_unless(actor(&caller), number, new, refusal).await?,
    };
    #[derive(Deserialize)]
    struct Made {
        member_id: MemberId,
        version: i32,
    }
    // What the desk gives is what the service desk sees; the caller sees what its role may.
    View::of(caller.role).hide_answer(&mut answer).map_err(ApiError::internal)?;
    let made = (answer.status < 400).then(|| serde_json::from_str::<Made>(&answer.body)).transpose();
    let made = made.map_err(ApiError::internal)?;
    let Some(Made { member_id, version }) = made else { return answer.reply(cost) };
    Ok(Answer::rendered(answer.status, answer.body.to_string())
        .metered(cost.into())
        .replayed(answer.replayed)
        .etag(ETag::version(version))
        .location(format!("/v1/members/{member_id}")))
}

/// Who asks, as logs name them.
pub(crate) fn actor(caller: &Caller) -> Actor {
    Actor { name: caller.name.as_str().into(), store_no: caller.store.as_ref().map(|(store_no, _)| *store_no) }
}

/// Runs an edit for a caller.
///
/// # Errors
/// The refusal, with what finding it out has cost.
pub(crate) async fn run_edit<E: Edit>(
    app: &App,
    caller: &Caller,
    member_id: MemberId,
    edit: E,
) -> Result<(E::Done, Cost), ApiError> {
    let (done, cost) = app.members.edit(actor(caller), member_id, edit).await?;
    let done = done.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    Ok((done, cost))
}

/// That a member exists of whom no row was found; adds what it has cost to know.
///
/// # Errors
/// `member_not_found`
pub(crate) async fn must_exist(app: &App, member_id: MemberId, cost: &mut Cost) -> Result<(), ApiError> {
    let (found, spent) = app.members.find(member_id).await?;
    *cost += spent;
    if found.is_some() { Ok(()) } else { Err(ApiError::from(Code::MemberNotFound).metered((*cost).into())) }
}

fn read_birthday(shell: &Shell, birthday: Option<Day>) -> Result<Option<chrono::NaiveDate>, Refusal> {
    let today = business_date(shell);
    birthday.map(|day| check_birthday(day.to_date(), today).map(|()| day.to_date())).transpose()
}

/// # Errors
/// `store_forbidden`, `store_not_found`.
async fn home_store(app: &App, caller: &Caller, store_id: &StoreId) -> Result<Arc<Shop>, ApiError> {
    caller.must_be_at(store_id)?;
    Ok(app.stores.get(store_id).await?)
}

fn home_of(shop: &Shop) -> HomeStore {
    HomeStore { store_no: shop.store_no, store_id: shop.store_id.as_str().into() }
}

fn business_date(shell: &Shell) -> chrono::NaiveDate {
    shell.zone.day_of(shell.clock.now()).to_date()
}

/// One identifier, exactly.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1, max_properties = 1)]
struct LookupBody {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, example = "+8613800000001")]
    phone: Option<IdentifierText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    email: Option<IdentifierText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    username: Option<IdentifierText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    card: Option<IdentifierText>,
    /// As in a registration.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    external: Option<IdentifierText>,
}

impl LookupBody {
    fn read(self, region: Region, systems: &Systems) -> Result<Identifier, Refusal> {
        let fields = [
            (key::Kind::Phone, self.phone),
            (key::Kind::Email, self.email),
            (key::Kind::Username, self.username),
            (key::Kind::Card, self.card),
            (key::Kind::External, self.external),
        ];
        one_identifier(region, systems, Purpose::Find, fields)
    }
}

/// The one identifier of a body.
///
/// # Errors
/// `invalid_field` when there is none or more than one; `identifier_invalid`.
pub(super) fn one_identifier(
    region: Region,
    systems: &Systems,
    purpose: Purpose,
    fields: [(key::Kind, Option<IdentifierText>); 5],
) -> Result<Identifier, Refusal> {
    let mut given = fields.into_iter().filter_map(|(kind, text)| Some((kind, text?.0)));
    let (Some((kind, text)), None) = (given.next(), given.next()) else {
        return Err(invalid_body("exactly one of phone, email, username, card and external is needed"));
    };
    let found = match kind {
        key::Kind::External => external(systems, purpose, &text, kind.name())?,
        kind => identifier(region, kind, &text)?,
    };
    found.ok_or_else(|| Refusal::invalid_field(kind.name(), "must not be empty"))
}

/// Look a member up
///
/// By one identifier. The body holds it, since personal data never stands in a URL. With `?coupons=usable` a till has
/// the member and what can be used now in one call, as the wallet shows it without a basket. Checked in this order:
/// the caller's store, query, body, identifier, role (for `coupons`), whether there is such a member.
#[utoipa::path(post, path = "/v1/members/lookup", tag = "members", params(LookupMore), responses(
    (status = 200, description = "The member", body = Found, headers(("ETag" = String)))))]
async fn lookup_member(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    Query(more): Query<LookupMore>,
    Json(body): Json<LookupBody>,
) -> Reply<Found> {
    let systems = if body.external.is_none() { Arc::default() } else { app.systems.get().await? };
    let identifier = body.read(app.region, &systems)?;
    if more.coupons.is_some() {
        caller.must(&[Role::Pos, Role::Ops, Role::Admin])?;
    }
    let (found, cost) = app.members.find_by(&identifier).await?;
    let (Some(_), Some(known)) = (more.coupons, &found) else { return shown(found.as_deref(), &caller, cost) };
    let place = till_place(&app, &shell, &caller, None).await?;
    let (wallet, spent) = app.desk.wallet(known.member.member_id, standing(known), place.as_ref(), None).await?;
    let mut meter = metered(cost);
    meter.cached = false;
    meter += spent;
    // The member as it is kept, and one field more. No entity tag: the version does not count coupons.
    let mut json = known.seen(View::of(caller.role)).to_vec();
    json.pop();
    json.extend_from_slice(b",\"coupons\":");
    serde_json::to_writer(&mut json, &wallet).map_err(ApiError::internal)?;
    json.push(b'}');
    Ok(Answer::rendered(200, json).metered(meter))
}

/// What else a look-up gives.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LookupMore {
    /// `usable`: also the coupons that the member can use now. Not for marketing.
    #[param(inline)]
    coupons: Option<Coupons>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Coupons {
    Usable,
}

/// A member, with the usable coupons where they were asked for.
#[derive(Serialize, ToSchema)]
struct Found {
    #[serde(flatten)]
    member: Member,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    coupons: Option<Wallet>,
}

/// Get a member
///
/// What is shown depends on the caller's role: phone, e-mail and name are masked, and left out for marketing; of a
/// birthday the year shows.
#[utoipa::path(get, path = "/v1/members/{member_id}", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "The member", body = Member, headers(("ETag" = String)))))]
async fn get_member(app: Data<App>, caller: Caller, At(member_id): At<MemberId>) -> Reply<Member> {
    let (found, cost) = app.members.find(member_id).await?;
    shown(found.as_deref(), &caller, cost)
}

fn shown<T>(found: Option<&Shown>, caller: &Caller, cost: Cost) -> Reply<T> {
    let Some(shown) = found else {
        return Err(ApiError::from(Code::MemberNotFound).metered(cost.into()));
    };
    let json = shown.seen(View::of(caller.role)).clone();
    Ok(Answer::rendered(200, json).etag(ETag::version(shown.member.version)).metered(metered(cost)))
}

/// What a read of members cost.
pub(crate) fn metered(cost: Cost) -> Meter {
    if cost.statements == 0 { Meter::CACHED } else { cost.into() }
}

/// What to change of a member; what is absent stays, and null clears.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MemberPatch {
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<RealName>)]
    name: Option<Option<RealName>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Nickname>)]
    nickname: Option<Option<Nickname>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Signature>)]
    signature: Option<Option<Signature>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    gender: Option<Gender>,
    /// From 1900 to today.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Day>)]
    birthday: Option<Option<Day>>,
    /// The home store; a till may name its own.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<StoreId>)]
    store_id: Option<Option<StoreId>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Avatar>)]
    avatar: Option<Option<Avatar>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    attributes: Option<AttributesPatch>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    level: Option<Int<0, { LEVEL_MAX as i64 }>>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    state: Option<State>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    kind: Option<MemberKind>,
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    muted: Option<bool>,
}

/// Change a member
///
/// Checked in this order: path, `If-Match`, body, role (for `state`, `kind`, `muted` and `level`), birthday, store, then
/// whether the member exists, has a version that `If-Match` names, may be changed so in its state and kind (a cancelled
/// member only by `state`, which it must leave first; a muted one has its nickname, signature and avatar fixed; a virtual
/// one has no name and no birthday), has no more than 64 attributes afterwards, may get the state
/// (`member_state_forbidden`, `member_erased`) and the kind (`member_kind_forbidden`). A change of nothing is checked and
/// changes nothing. Other nodes show the change within a second.
#[utoipa::path(patch, path = "/v1/members/{member_id}", tag = "members",
    params(("member_id" = MemberId, Path), ("If-Match" = inline(IfMatch), Header)),
    responses((status = 200, description = "The member as it is now", body = Member, headers(("ETag" = String)))))]
async fn update_member(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At(member_id): At<MemberId>,
    seen: IfMatch,
    Json(patch): Json<MemberPatch>,
) -> Reply<Member> {
    if patch.state.is_some() || patch.kind.is_some() || patch.muted.is_some() || patch.level.is_some() {
        caller.must(&[Role::Ops, Role::Admin])?;
    }
    let birthday = match patch.birthday {
        Some(day) => Some(read_birthday(&shell, day)?),
        None => None,
    };
    let home_store = match &patch.store_id {
        Some(Some(store_id)) => {
            let shop = home_store(&app, &caller, store_id).await?;
            shop.may(Deed::RegisterMember, business_date(&shell))?;
            Some(Some(home_of(&shop)))
        }
        Some(None) => Some(None),
        None => None,
    };
    let change = Change {
        name: patch.name.map(|name| name.map(RealName::into_string)),
        nickname: patch.nickname.map(|nickname| nickname.map(Nickname::into_string)),
        signature: patch.signature.map(|signature| signature.map(Signature::into_string)),
        gender: patch.gender,
        birthday,
        home_store,
        avatar: patch.avatar,
        attributes: patch.attributes,
        level: patch.level.map(|level| level.get() as i16),
        state: patch.state,
        kind: patch.kind,
        muted: patch.muted,
    };
    let versions = seen.versions().map(<[i64]>::to_vec);
    let (changed, cost) = app.members.change(actor(&caller), member_id, versions, change).await?;
    let member = changed.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    let json = View::of(caller.role).render(&member);
    Ok(Answer::rendered(200, json).etag(ETag::version(member.version)).metered(cost.into()))
}

impl From<MemberError> for ApiError {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::Lane(error) => error.into(),
            // The lease and the numbers come from the database: without it there are none.
            MemberError::Numbers(_) | MemberError::Mint(_) => Self::unavailable(error),
            MemberError::Id(_) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::extract::parse;

    fn lookup(body: &str) -> Result<(key::Kind, String), Code> {
        let body = parse::<LookupBody>(body.as_bytes()).map_err(|refusal| refusal.code)?;
        body.read(Region::CHINA, &Systems::default())
            .map(|found| (found.kind(), found.into_normalised()))
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_look_up_takes_exactly_one_identifier() {
        assert_eq!(lookup(r#"{"phone":"138 0000 0001"}"#), Ok((key::Kind::Phone, "+8613800000001".into())));
        assert_eq!(lookup(r#"{"external":"qq:7"}"#), Ok((key::Kind::Qq, "qq:7".into())));
        for (body, code) in [
            ("{}", Code::InvalidField),
            (r#"{"phone":"13800000001","email":"lin@example.cn"}"#, Code::InvalidField),
            (r#"{"phone":""}"#, Code::InvalidField),
            (r#"{"phone":"1"}"#, Code::IdentifierInvalid),
            (r#"{"phone":null}"#, Code::MalformedBody),
            (r#"{"phone":1}"#, Code::MalformedBody),
            (r#"{"member_id":"1"}"#, Code::MalformedBody),
            (r#"{"external":"erp:1"}"#, Code::IdentifierInvalid),
        ] {
            assert_eq!(lookup(body), Err(code), "{body}");
        }
    }

    #[test]
    fn a_patch_tells_absent_from_null() {
        let patch: MemberPatch = parse(br#"{"name":null,"birthday":"1990-05-01"}"#).unwrap();
        assert!(matches!(patch.name, Some(None)));
        assert!(patch.nickname.is_none());
        assert!(matches!(patch.birthday, Some(Some(_))));
        for (body, code) in [
            (r#"{"state":"erased"}"#, Code::MalformedBody),
            (r#"{"muted":null}"#, Code::MalformedBody),
            (r#"{"gender":null}"#, Code::MalformedBody),
            (r#"{"phone":"13800000001"}"#, Code::MalformedBody),
            (r#"{"name":""}"#, Code::InvalidField),
            (r#"{"birthday":"1990-5-1"}"#, Code::MalformedBody),
        ] {
            assert_eq!(parse::<MemberPatch>(body.as_bytes()).err().map(|refusal| refusal.code), Some(code), "{body}");
        }
    }
}
