//! Roles over HTTP.

use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use super::{MemberRole, RoleName, RoleSystem, SetRole};
use crate::{
    app::App,
    http::{Answer, ApiError, At, Caller, Reply, Routes},
    id::MemberId,
    member::http::{must_exist, run_edit},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_roles: MemberNotFound;
        grant_role: MemberNotFound, MemberErased, MemberCancelled, RoleLimitReached;
        revoke_role: MemberNotFound, MemberErased, MemberCancelled;
    }
}

/// All roles of a member, by system and name.
#[derive(Serialize, ToSchema)]
struct MemberRoles {
    items: Vec<MemberRole>,
}

/// List a member's roles
#[utoipa::path(get, path = "/v1/members/{member_id}/roles", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All of them, by system and name", body = MemberRoles)))]
async fn list_roles(app: Data<App>, At(member_id): At<MemberId>) -> Reply<MemberRoles> {
    let (rows, mut cost) = app.members.family.roles.find(member_id).await?;
    if rows.is_none() {
        must_exist(&app, member_id, &mut cost).await?;
    }
    let items = rows.iter().flat_map(|rows| rows.iter().map(MemberRole::from)).collect();
    Ok(Answer::ok(MemberRoles { items }).metered(cost.into()))
}

/// Grant a role
///
/// Again changes nothing. There is no `If-Match`: each role stands by itself, so that two who grant and revoke do not
/// overwrite each other, and of one and the same the last wins. Checked in this order: path, whether the member exists, is not erased and not cancelled, the
/// limit of 64 roles over all systems.
#[utoipa::path(put, path = "/v1/members/{member_id}/roles/{system}/{role}", tag = "members",
    params(("member_id" = MemberId, Path), ("system" = RoleSystem, Path), ("role" = RoleName, Path)),
    responses((status = 200, description = "The role", body = MemberRole)))]
async fn grant_role(
    app: Data<App>,
    caller: Caller,
    At((member_id, system, role)): At<(MemberId, RoleSystem, RoleName)>,
) -> Reply<MemberRole> {
    let (granted, cost) = run_edit(&app, &caller, member_id, SetRole { system, role, granted: true }).await?;
    let granted = granted.ok_or_else(|| ApiError::internal("a role that was granted is not there"))?;
    Ok(Answer::ok(granted).metered(cost.into()))
}

/// Take a role back
///
/// Whether it was granted or not. Checked in this order: path, whether the member exists, is not erased and not
/// cancelled.
#[utoipa::path(delete, path = "/v1/members/{member_id}/roles/{system}/{role}", tag = "members",
    params(("member_id" = MemberId, Path), ("system" = RoleSystem, Path), ("role" = RoleName, Path)),
    responses((status = 204, description = "It is not there")))]
async fn revoke_role(
    app: Data<App>,
    caller: Caller,
    At((member_id, system, role)): At<(MemberId, RoleSystem, RoleName)>,
) -> Reply<()> {
    let (_, cost) = run_edit(&app, &caller, member_id, SetRole { system, role, granted: false }).await?;
    Ok(Answer::no_content().metered(cost.into()))
}
