//! Erasing a person over HTTP.

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{super::http::actor, EraseReason, Erased};
use crate::{
    app::App,
    http::{Answer, ApiError, At, Caller, IfMatch, IfMatchGiven, Query, Reply, Routes},
    id::MemberId,
};

pub fn routes() -> Routes {
    crate::routes! {
        erase_member: MemberNotFound, PreconditionFailed, PreconditionRequired;
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EraseQuery {
    /// For the audit; `asked` if absent.
    #[serde(default)]
    #[param(inline, nullable = false)]
    reason: Option<EraseReason>,
}

/// Erase a person
///
/// Deletes the identifiers, names, addresses and whatever else tells who the member is, for good. The member stays as an
/// id that is cancelled, since coupons and redemptions name it; its coupons cannot be redeemed any more. Its phone is
/// free: whoever registers with it is a new member. Audited. A second erasure changes nothing and gets the same answer.
/// Checked in this order: the member exists; erased before, which is done; `If-Match`, if it is given. Every node knows
/// within a second.
#[utoipa::path(delete, path = "/v1/members/{member_id}", tag = "members",
    params(("member_id" = MemberId, Path), EraseQuery, ("If-Match" = inline(Option<IfMatch>), Header)),
    responses((status = 200, description = "What is left", body = Erased)))]
async fn erase_member(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    seen: IfMatchGiven,
    Query(query): Query<EraseQuery>,
) -> Reply<Erased> {
    let versions = seen.0.and_then(|seen| seen.versions().map(<[i64]>::to_vec));
    let reason = query.reason.unwrap_or_default();
    let (erased, cost) = app.members.erase(actor(&caller), member_id, versions, reason).await?;
    let erased = erased.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    Ok(Answer::ok(erased).metered(cost.into()))
}
