//! Many members at once, over HTTP.

use actix_web::web::{Bytes, Data};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Member, http::metered, mask::View};
use crate::{
    app::App,
    http::{Answer, ApiError, Caller, Json, Reply, Routes},
    id::MemberId,
};

pub fn routes() -> Routes {
    crate::routes! {
        get_members;
    }
}

/// Members of one batch at most.
const BATCH_MAX: usize = 200;

/// Which members.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchBody {
    #[schema(min_items = 1, max_items = 200)]
    member_ids: Vec<MemberId>,
}

const _: () = assert!(BATCH_MAX == 200, "the schema above says so");

/// Members in the order in which they were asked for. Put together from JSON that was rendered before; this is its shape.
#[derive(Serialize, ToSchema)]
struct Batch {
    /// One for each id that a member has; an id that was sent twice is answered twice.
    items: Vec<Member>,
    /// The ids that no member has.
    missing: Vec<MemberId>,
}

/// A [`Batch`] from what is kept of its members.
fn batch_json(items: &[&Bytes], missing: &[MemberId]) -> Vec<u8> {
    let bytes: usize = items.iter().map(|item| item.len() + 1).sum();
    let mut json = Vec::with_capacity(bytes + 24 * missing.len() + 32);
    json.extend_from_slice(b"{\"items\":[");
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        json.extend_from_slice(item);
    }
    json.extend_from_slice(b"],\"missing\":");
    serde_json::to_writer(&mut json, missing).expect("ids always serialise, and a Vec takes every byte");
    json.push(b'}');
    json
}

/// Get many members
///
/// Up to 200 at once, as each `GET` would show them, with one statement for each partition that holds some of them. An
/// id without a member is no error but is listed in `missing`.
#[utoipa::path(post, path = "/v1/members/batch", tag = "members", responses(
    (status = 200, description = "The members", body = Batch)))]
async fn get_members(app: Data<App>, caller: Caller, Json(body): Json<BatchBody>) -> Reply<Batch> {
    if !(1..=BATCH_MAX).contains(&body.member_ids.len()) {
        return Err(ApiError::invalid_field("member_ids", format!("must be 1 to {BATCH_MAX} ids")));
    }
    let mut wanted = body.member_ids.clone();
    wanted.sort_unstable();
    wanted.dedup();
    let (found, cost) = app.members.find_many(wanted).await?;
    let view = View::of(caller.role);
    let (mut items, mut missing) = (Vec::with_capacity(body.member_ids.len()), Vec::new());
    for member_id in body.member_ids {
        match found.get(&member_id) {
            Some(shown) => items.push(shown.seen(view)),
            None => missing.push(member_id),
        }
    }
    Ok(Answer::rendered(200, batch_json(&items, &missing)).metered(metered(cost)))
}
