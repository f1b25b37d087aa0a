//! Tags over HTTP.

use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChangeTags, TAGS_MAX, Tag, Tagged, show};
use crate::{
    app::App,
    http::{Answer, ApiError, At, Caller, Json, Reply, Routes},
    id::MemberId,
    member::http::{must_exist, run_edit},
    problem::Refusal,
};

pub fn routes() -> Routes {
    crate::routes! {
        list_tags: MemberNotFound;
        change_tags: MemberNotFound, MemberErased, MemberCancelled, TagLimitReached;
        put_tag: MemberNotFound, MemberErased, MemberCancelled, TagLimitReached;
        delete_tag: MemberNotFound, MemberErased, MemberCancelled;
    }
}

/// All tags of a member, by name.
#[derive(Serialize, ToSchema)]
struct Tags {
    items: Vec<Tagged>,
}

/// What to change. A tag may stand in one of the two only.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TagsBody {
    #[serde(default)]
    #[schema(max_items = 100)]
    add: Vec<Tag>,
    #[serde(default)]
    #[schema(max_items = 100)]
    remove: Vec<Tag>,
}

const _: () = assert!(TAGS_MAX == 100, "the schema above says so");

/// List a member's tags
#[utoipa::path(get, path = "/v1/members/{member_id}/tags", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All of them, by name", body = Tags)))]
async fn list_tags(app: Data<App>, At(member_id): At<MemberId>) -> Reply<Tags> {
    let (rows, mut cost) = app.members.family.tags.find(member_id).await?;
    let Some(rows) = rows else {
        must_exist(&app, member_id, &mut cost).await?;
        return Ok(Answer::ok(Tags { items: Vec::new() }).metered(cost.into()));
    };
    Ok(Answer::ok(Tags { items: show(&rows) }).metered(cost.into()))
}

/// Add and remove tags
///
/// In one change. What is so already stays as it is, with its time. Checked in this order: path, body, whether the
/// member exists, is not erased and not cancelled, the limit of 100 tags.
#[utoipa::path(post, path = "/v1/members/{member_id}/tags", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All tags as they are now, by name", body = Tags)))]
async fn change_tags(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(body): Json<TagsBody>,
) -> Reply<Tags> {
    for (field, tags) in [("add", &body.add), ("remove", &body.remove)] {
        if tags.len() > TAGS_MAX {
            return Err(Refusal::invalid_field(field, format!("must be at most {TAGS_MAX} tags")).into());
        }
    }
    let edit = ChangeTags::new(body.add, body.remove)?;
    let (items, cost) = run_edit(&app, &caller, member_id, edit).await?;
    Ok(Answer::ok(Tags { items }).metered(cost.into()))
}

/// Put a tag on a member
///
/// Again changes nothing. There is no `If-Match`: each tag stands by itself. Checked in this order: path, whether the member exists, is not erased and not cancelled, the
/// limit of 100 tags.
#[utoipa::path(put, path = "/v1/members/{member_id}/tags/{tag}", tag = "members",
    params(("member_id" = MemberId, Path), ("tag" = Tag, Path)),
    responses((status = 200, description = "The tag", body = Tagged)))]
async fn put_tag(app: Data<App>, caller: Caller, At((member_id, tag)): At<(MemberId, Tag)>) -> Reply<Tagged> {
    let edit = ChangeTags::new(vec![tag.clone()], Vec::new())?;
    let (tags, cost) = run_edit(&app, &caller, member_id, edit).await?;
    let tagged = tags.into_iter().find(|tagged| tagged.tag == tag.as_str());
    let tagged = tagged.ok_or_else(|| ApiError::internal("a tag that was put is not there"))?;
    Ok(Answer::ok(tagged).metered(cost.into()))
}

/// Take a tag off a member
///
/// Whether it was there or not. Checked in this order: path, whether the member exists, is not erased and not
/// cancelled.
#[utoipa::path(delete, path = "/v1/members/{member_id}/tags/{tag}", tag = "members",
    params(("member_id" = MemberId, Path), ("tag" = Tag, Path)),
    responses((status = 204, description = "It is not there")))]
async fn delete_tag(app: Data<App>, caller: Caller, At((member_id, tag)): At<(MemberId, Tag)>) -> Reply<()> {
    let edit = ChangeTags::new(Vec::new(), vec![tag])?;
    let (_, cost) = run_edit(&app, &caller, member_id, edit).await?;
    Ok(Answer::no_content().metered(cost.into()))
}
