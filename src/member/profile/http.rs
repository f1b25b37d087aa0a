//! Profiles over HTTP: one set of routes for every line, whose documents come from the registry.

use actix_web::web::Data;
use futures_util::future::try_join_all;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::{
    RefOr, Schema,
    schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, Type},
};

use super::{AnyLine, LineRef, Put, Seen, line, lines};
use crate::{
    app::App,
    chain::key::Role,
    db::lane::Cost,
    http::{Answer, ApiError, At, Caller, ETag, IfMatch, IfMatchGiven, JsonText, Reply, Routes},
    id::MemberId,
    member::{
        http::{actor, must_exist},
        mask::View,
    },
    problem::Code,
    text_type,
};

text_type! {
    /// A business line.
    LineName: word 1..=32, "mall";
}

pub fn routes() -> Routes {
    crate::routes! {
        list_profiles: MemberNotFound;
        get_profile: LineNotFound, MemberNotFound, ProfileNotFound;
        put_profile: LineNotFound, MemberNotFound, MemberErased, MemberCancelled, MemberMuted, PreconditionRequired,
            MemberKindForbidden;
        update_profile: LineNotFound, MemberNotFound, MemberErased, MemberCancelled, MemberMuted, ProfileNotFound,
            MemberKindForbidden;
        delete_profile: LineNotFound, MemberNotFound, MemberErased, MemberCancelled, ProfileNotFound;
    }
}

/// What comes in: what one of the lines takes.
struct ProfileBody;

impl utoipa::PartialSchema for ProfileBody {
    fn schema() -> RefOr<Schema> {
        let given = lines().into_iter().map(|line| line.given_schema(&mut Vec::new()));
        let any = AnyOfBuilder::new().description(Some("What the line takes that the path names."));
        any_of(any, given)
    }
}

impl utoipa::ToSchema for ProfileBody {
    fn schemas(named: &mut Vec<(String, RefOr<Schema>)>) {
        for line in lines() {
            line.given_schema(named);
        }
    }
}

/// What is shown: what one of the lines shows, and the line.
struct ProfileDocument;

impl utoipa::PartialSchema for ProfileDocument {
    fn schema() -> RefOr<Schema> {
        let shown = |line: &dyn AnyLine| {
            let text = || ObjectBuilder::new().schema_type(Type::String);
            let own = ObjectBuilder::new()
                .property("line", text().enum_values(Some([line.name()])))
                .property("version", ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)))
                .property("created_at", text())
                .property("updated_at", text());
            let own = ["line", "version", "created_at", "updated_at"].into_iter().fold(own, ObjectBuilder::required);
            RefOr::T(AllOfBuilder::new().item(line.shown_schema(&mut Vec::new())).item(own).build().into())
        };
        any_of(AnyOfBuilder::new(), lines().into_iter().map(shown))
    }
}

impl utoipa::ToSchema for ProfileDocument {
    fn schemas(named: &mut Vec<(String, RefOr<Schema>)>) {
        for line in lines() {
            line.shown_schema(named);
        }
    }
}

fn any_of(any: AnyOfBuilder, variants: impl Iterator<Item = RefOr<Schema>>) -> RefOr<Schema> {
    RefOr::T(variants.fold(any, AnyOfBuilder::item).build().into())
}

/// A member's profiles.
struct Profiles;

impl utoipa::PartialSchema for Profiles {
    fn schema() -> RefOr<Schema> {
        let items =
            utoipa::openapi::ArrayBuilder::new().items(utoipa::openapi::Ref::from_schema_name("ProfileDocument"));
        ObjectBuilder::new().property("items", items).required("items").into()
    }
}

impl utoipa::ToSchema for Profiles {
    fn schemas(named: &mut Vec<(String, RefOr<Schema>)>) {
        named.push(("ProfileDocument".to_owned(), <ProfileDocument as utoipa::PartialSchema>::schema()));
        ProfileDocument::schemas(named);
    }
}

/// # Errors
/// `line_not_found`
fn known(name: &LineName) -> Result<&'static dyn AnyLine, ApiError> {
    line(name.as_str()).ok_or_else(|| Code::LineNotFound.into())
}

/// List a member's profiles
///
/// Those of all business lines that the member has used, by the lines' names.
#[utoipa::path(get, path = "/v1/members/{member_id}/profiles", tag = "members",
    params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All of them", body = Profiles)))]
async fn list_profiles(app: Data<App>, caller: Caller, At(member_id): At<MemberId>) -> Reply<()> {
    let reader = &app.members.family.profiles;
    let found = try_join_all(lines().into_iter().map(|line| reader.find((LineRef(line), member_id)))).await?;
    let mut cost = Cost::default();
    let view = View::of(caller.role);
    let mut items: Vec<Box<RawValue>> = Vec::with_capacity(found.len());
    for (profile, spent) in found {
        cost += spent;
        if let Some(profile) = profile {
            items.push(serde_json::from_slice(&view.hide(profile.json)).map_err(ApiError::internal)?);
        }
    }
    if items.is_empty() {
        must_exist(&app, member_id, &mut cost).await?;
    }
    #[derive(Serialize)]
    struct Rendered {
        items: Vec<Box<RawValue>>,
    }
    let json = serde_json::to_vec(&Rendered { items }).map_err(ApiError::internal)?;
    Ok(Answer::rendered(200, json).metered(cost.into()))
}

/// Get a member's profile in a business line
#[utoipa::path(get, path = "/v1/members/{member_id}/profiles/{line}", tag = "members",
    params(("member_id" = MemberId, Path), ("line" = inline(LineName), Path)),
    responses((status = 200, description = "The profile", body = ProfileDocument, headers(("ETag" = String)))))]
async fn get_profile(app: Data<App>, caller: Caller, At((member_id, line)): At<(MemberId, LineName)>) -> Reply<()> {
    let line = known(&line)?;
    let (found, mut cost) = app.members.family.profiles.find((LineRef(line), member_id)).await?;
    let Some(profile) = found else {
        must_exist(&app, member_id, &mut cost).await?;
        return Err(ApiError::from(Code::ProfileNotFound).metered(cost.into()));
    };
    let json = View::of(caller.role).hide(profile.json);
    Ok(Answer::rendered(200, json).etag(ETag::version(profile.version)).metered(cost.into()))
}

/// Put a member's profile in a business line
///
/// Makes it, without `If-Match`, or replaces the one that there is, with `If-Match`: fields that the body does not name
/// are cleared, but for those that the roles ops and admin set. The same again changes nothing. Checked in this order:
/// path, `If-Match`, the line, body, role (for some fields of some lines), whether the member exists, is not erased and
/// not cancelled, whether there is a profile, whether it has a version that `If-Match` names, whether the member is
/// virtual (for what says who somebody is) or muted (for what others see).
#[utoipa::path(put, path = "/v1/members/{member_id}/profiles/{line}", tag = "members", request_body = ProfileBody,
    params(("member_id" = MemberId, Path), ("line" = inline(LineName), Path),
        ("If-Match" = inline(Option<IfMatch>), Header)),
    responses((status = 200, description = "The profile as it is now", body = ProfileDocument,
            headers(("ETag" = String))),
        (status = 201, description = "The new profile", body = ProfileDocument, headers(("ETag" = String)))))]
async fn put_profile(
    app: Data<App>,
    caller: Caller,
    At((member_id, line)): At<(MemberId, LineName)>,
    IfMatchGiven(seen): IfMatchGiven,
    JsonText(body): JsonText,
) -> Reply<()> {
    let seen = match seen {
        None => Seen::Nothing,
        Some(seen) => seen.into(),
    };
    put(&app, &caller, member_id, known(&line)?, (&body, seen, true)).await
}

/// Change a member's profile in a business line
///
/// What is absent stays, and null clears. A change to what is so already changes nothing. Checked as for putting it.
#[utoipa::path(patch, path = "/v1/members/{member_id}/profiles/{line}", tag = "members", request_body = ProfileBody,
    params(("member_id" = MemberId, Path), ("line" = inline(LineName), Path), ("If-Match" = inline(IfMatch), Header)),
    responses((status = 200, description = "The profile as it is now", body = ProfileDocument,
        headers(("ETag" = String)))))]
async fn update_profile(
    app: Data<App>,
    caller: Caller,
    At((member_id, line)): At<(MemberId, LineName)>,
    seen: IfMatch,
    JsonText(body): JsonText,
) -> Reply<()> {
    put(&app, &caller, member_id, known(&line)?, (&body, seen.into(), false)).await
}

impl From<IfMatch> for Seen {
    fn from(seen: IfMatch) -> Self {
        match seen {
            IfMatch::Any => Self::Any,
            IfMatch::Versions(versions) => Self::Versions(versions),
        }
    }
}

async fn put(
    app: &App,
    caller: &Caller,
    member_id: MemberId,
    line: &'static dyn AnyLine,
    (body, seen, whole): (&[u8], Seen, bool),
) -> Reply<()> {
    let govern = caller.must(&[Role::Ops, Role::Admin]);
    let put = Put { actor: actor(caller), member_id, body, seen, whole, govern };
    let (done, cost) = line.put(&app.members, put).await?;
    let (profile, is_new) = done.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    let answer = Answer::rendered(if is_new { 201 } else { 200 }, profile.json);
    Ok(answer.etag(ETag::version(profile.version)).metered(cost.into()))
}

/// Delete a member's profile in a business line
///
/// As if the member had never used the line. Checked in this order: path, the line, whether the member exists, is not
/// erased and not cancelled, whether there is a profile.
#[utoipa::path(delete, path = "/v1/members/{member_id}/profiles/{line}", tag = "members",
    params(("member_id" = MemberId, Path), ("line" = inline(LineName), Path)),
    responses((status = 204, description = "It is gone")))]
async fn delete_profile(app: Data<App>, caller: Caller, At((member_id, line)): At<(MemberId, LineName)>) -> Reply<()> {
    let (done, cost) = known(&line)?.delete(&app.members, actor(&caller), member_id).await?;
    done.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    Ok(Answer::no_content().metered(cost.into()))
}
