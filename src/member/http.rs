//! Members over HTTP: register, look up, get, change.

use std::sync::Arc;

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    EXTERNAL_MAX, Gender, Given, HomeStore, Identifiers, Member, NewMember, Source, State,
    cache::Shown,
    check_birthday,
    desk::MemberError,
    edit::Actor,
    external, identifier, invalid_body,
    key::{self, Identifier, Region},
    patch::Change,
    register::FIRST_VERSION,
};
use crate::{
    app::App,
    chain::{
        StoreId,
        deed::{Deed, Shop},
        key::Role,
        system::{Purpose, Systems},
    },
    coupon::http::window,
    db::lane::Cost,
    http::{
        Answer, ApiError, At, Caller, ETag, IfMatch, Json, Number, Reply, Routes,
        app::Shell,
        input::{nullable, present},
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
        lookup_member: StoreClosed, IdentifierInvalid, MemberNotFound;
        get_member: StoreClosed, MemberNotFound;
        update_member: StoreNotFound, StoreClosed, StoreSuspended, MemberNotFound, MemberCancelled;
    }
}

/// An identifier as people write it. It is normalised by the handler, which knows its kind; an empty one counts as
/// absent.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
struct IdentifierText(String);

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
    /// `<system>:<id>` of the external systems that are registered, such as web, app, crm and sport; also `wechat:<app>:<openid>`, `wechat-union:<id>`,
    /// `qq:<id>`, `weibo:<id>`, `tencent-weibo:<id>`, `oidc:<issuer>:<sub>`.
    #[serde(default)]
    #[schema(max_items = 8, example = json!(["web:42"]))]
    external: Vec<IdentifierText>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    name: Option<RealName>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    nickname: Option<Nickname>,
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
/// gets the first answer. Checked in this order: identifiers (phone, e-mail, username, card, external), birthday, store,
/// request number, store closed or suspended, whether the identifiers are free.
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
    };
    let (answer, cost) = match (number, refusal) {
        (None, Some(refusal)) => return Err(refusal.into()),
        (number, refusal) => app.members.register_unless(actor(&caller), number, new, refusal).await?,
    };
    #[derive(Deserialize)]
    struct Made {
        member_id: MemberId,
    }
    let made = (answer.status < 400).then(|| serde_json::from_str::<Made>(&answer.body)).transpose();
    let made = made.map_err(ApiError::internal)?;
    let reply = answer.reply(cost)?;
    Ok(match made {
        Some(Made { member_id }) => {
            reply.etag(ETag::version(FIRST_VERSION)).location(format!("/v1/members/{member_id}"))
        }
        None => reply,
    })
}

/// Who asks, as logs name them.
pub(crate) fn actor(caller: &Caller) -> Actor {
    Actor { name: caller.name.as_str().into(), store_no: caller.store.as_ref().map(|(store_no, _)| *store_no) }
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

/// Tills of a store that is closed do not look members up.
async fn must_look_up(app: &App, shell: &Shell, caller: &Caller) -> Result<(), ApiError> {
    Ok(app.stores.must_look_up(caller.store.as_ref().map(|(_, own)| own), business_date(shell)).await?)
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
        let mut given = fields.into_iter().filter_map(|(kind, text)| Some((kind, text?.0)));
        let (Some((kind, text)), None) = (given.next(), given.next()) else {
            return Err(invalid_body("exactly one of phone, email, username, card and external is needed"));
        };
        let found = match kind {
            key::Kind::External => external(systems, Purpose::Find, &text, kind.name())?,
            kind => identifier(region, kind, &text)?,
        };
        found.ok_or_else(|| Refusal::invalid_field(kind.name(), "must not be empty"))
    }
}

/// Look a member up
///
/// By one identifier. The body holds it, since personal data never stands in a URL.
#[utoipa::path(post, path = "/v1/members/lookup", tag = "members", responses(
    (status = 200, description = "The member", body = Member, headers(("ETag" = String)))))]
async fn lookup_member(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    Json(body): Json<LookupBody>,
) -> Reply<Member> {
    must_look_up(&app, &shell, &caller).await?;
    let systems = if body.external.is_none() { Arc::default() } else { app.systems.get().await? };
    let (found, cost) = app.members.find_by(&body.read(app.region, &systems)?).await?;
    shown(found.as_deref(), cost)
}

/// Get a member
#[utoipa::path(get, path = "/v1/members/{member_id}", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "The member", body = Member, headers(("ETag" = String)))))]
async fn get_member(app: Data<App>, shell: Data<Shell>, caller: Caller, At(member_id): At<MemberId>) -> Reply<Member> {
    must_look_up(&app, &shell, &caller).await?;
    let (found, cost) = app.members.find(member_id).await?;
    shown(found.as_deref(), cost)
}

fn shown(found: Option<&Shown>, cost: Cost) -> Reply<Member> {
    let Some(shown) = found else {
        return Err(ApiError::from(Code::MemberNotFound).metered(cost.into()));
    };
    let meter = if cost.statements == 0 { Meter::CACHED } else { cost.into() };
    Ok(Answer::rendered(200, shown.json.clone()).etag(ETag::version(shown.member.version)).metered(meter))
}

/// The states that a change may give. Cancelling is another operation.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LivingState {
    Normal,
    Frozen,
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
    /// For the roles ops and admin.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    state: Option<LivingState>,
}

/// Change a member
///
/// Checked in this order: path, `If-Match`, body, role (for `state`), birthday, store, then whether the member exists,
/// has a version that `If-Match` names, and is not cancelled. A change of nothing is checked and changes nothing. Other
/// nodes show the change within a second.
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
    if patch.state.is_some() {
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
        state: patch.state.map(|state| match state {
            LivingState::Normal => State::Normal,
            LivingState::Frozen => State::Frozen,
        }),
    };
    let versions = seen.versions().map(<[i64]>::to_vec);
    let (changed, cost) = app.members.change(actor(&caller), member_id, versions, change).await?;
    let member = changed.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    let etag = ETag::version(member.version);
    Ok(Answer::ok(member).etag(etag).metered(cost.into()))
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
            (r#"{"state":"cancelled"}"#, Code::MalformedBody),
            (r#"{"gender":null}"#, Code::MalformedBody),
            (r#"{"phone":"13800000001"}"#, Code::MalformedBody),
            (r#"{"name":""}"#, Code::InvalidField),
            (r#"{"birthday":"1990-5-1"}"#, Code::MalformedBody),
        ] {
            assert_eq!(parse::<MemberPatch>(body.as_bytes()).err().map(|refusal| refusal.code), Some(code), "{body}");
        }
    }
}
