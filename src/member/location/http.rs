//! Locations over HTTP.

use actix_web::web::Data;

use super::{DeleteLocation, Location, PutLocation};
use crate::{
    app::App,
    db::lane::LaneError,
    http::{Answer, ApiError, At, Caller, ETag, Json, Reply, Routes},
    id::MemberId,
    member::{
        http::{must_exist, run_edit},
        place::Place,
    },
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        get_location: MemberNotFound, LocationNotFound;
        put_location: MemberNotFound, MemberErased, MemberCancelled, MemberKindForbidden;
        delete_location: MemberNotFound, MemberErased, MemberCancelled, LocationNotFound;
    }
}

fn tag(location: &Location) -> ETag {
    ETag::version(location.updated_at.timestamp_micros())
}

/// Get a member's location
#[utoipa::path(get, path = "/v1/members/{member_id}/location", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "Where the member is", body = Location, headers(("ETag" = String)))))]
async fn get_location(app: Data<App>, At(member_id): At<MemberId>) -> Reply<Location> {
    let (rows, mut cost) = app.members.family.locations.find(member_id).await?;
    let Some(row) = rows.as_ref().and_then(|rows| rows.first()) else {
        must_exist(&app, member_id, &mut cost).await?;
        return Err(ApiError::from(Code::LocationNotFound).metered(cost.into()));
    };
    let location = row.show(&app.secrets).map_err(|what| LaneError::Inconsistent(what.into()))?;
    let etag = tag(&location);
    Ok(Answer::ok(location).etag(etag).metered(cost.into()))
}

/// Say where a member is
///
/// In place of what was said before, whoever said it: there is no `If-Match`, since where somebody was last is what counts,
/// and the last to say it wins. The same again changes nothing. Checked in this order: path, body, that it says
/// something, whether the member exists, is not erased, not cancelled and not virtual.
#[utoipa::path(put, path = "/v1/members/{member_id}/location", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "The location as it is now", body = Location, headers(("ETag" = String)))))]
async fn put_location(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(place): Json<Place>,
) -> Reply<Location> {
    if place == Place::default() {
        return Err(Refusal::invalid_field("", "a location says at least one thing").into());
    }
    let (location, cost) = run_edit(&app, &caller, member_id, PutLocation(place)).await?;
    let etag = tag(&location);
    Ok(Answer::ok(location).etag(etag).metered(cost.into()))
}

/// Forget where a member is
///
/// Checked in this order: path, whether the member exists, is not erased and not cancelled, whether there is a
/// location.
#[utoipa::path(delete, path = "/v1/members/{member_id}/location", tag = "members",
    params(("member_id" = MemberId, Path)), responses((status = 204, description = "It is forgotten")))]
async fn delete_location(app: Data<App>, caller: Caller, At(member_id): At<MemberId>) -> Reply<()> {
    let ((), cost) = run_edit(&app, &caller, member_id, DeleteLocation).await?;
    Ok(Answer::no_content().metered(cost.into()))
}
