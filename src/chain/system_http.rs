//! External systems over HTTP.

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    system::{NewSystem, System, SystemId, SystemPatch},
    system_store,
};
use crate::{
    app::App,
    http::{
        Answer, At, Cursor, ETag, IfMatch, Json, Page, PageLimit, Query, Reply, Routes, app::Shell, page::limit_of,
    },
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_external_systems;
        create_external_system: SystemExists;
        get_external_system: SystemNotFound;
        update_external_system: SystemNotFound;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SystemList {
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Systems a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// List external systems
///
/// In the order of their names.
#[utoipa::path(get, path = "/v1/external-systems", tag = "external systems", params(SystemList),
    responses((status = 200, description = "A page of systems", body = Page<System>)))]
async fn list_external_systems(shell: Data<Shell>, Query(list): Query<SystemList>) -> Reply<Page<System>> {
    let limit = limit_of(list.limit);
    let after = list.cursor.map(|cursor| cursor.key(&())).transpose()?;
    if after.as_deref().is_some_and(|after| SystemId::parse(after).is_err()) {
        return Err(Refusal::new(Code::MalformedQuery).with("parameter", "cursor").into());
    }
    let mut conn = shell.conn().await?;
    let rows = system_store::list_systems(&mut conn, after.as_deref(), limit + 1).await?;
    Ok(Answer::ok(Page::new(rows, limit, &(), |row| row.system.to_string())).metered(conn.meter()))
}

/// Register an external system
///
/// Its ids identify members as `<system>:<id>` on every node within 2 seconds.
#[utoipa::path(post, path = "/v1/external-systems", tag = "external systems", responses(
    (status = 201, description = "The system", body = System, headers(("ETag" = String), ("Location" = String)))))]
async fn create_external_system(app: Data<App>, shell: Data<Shell>, Json(new): Json<NewSystem>) -> Reply<System> {
    let mut conn = shell.conn().await?;
    let row = system_store::insert_system(&mut conn, &new, shell.clock.now()).await?;
    app.systems.forget().await;
    let (location, etag) = (format!("/v1/external-systems/{}", row.system), ETag::version(row.version));
    Ok(Answer::created(row, location).etag(etag).metered(conn.meter()))
}

/// Get an external system
#[utoipa::path(get, path = "/v1/external-systems/{system}", tag = "external systems",
    params(("system" = SystemId, Path)),
    responses((status = 200, description = "The system", body = System, headers(("ETag" = String)))))]
async fn get_external_system(shell: Data<Shell>, At(system): At<SystemId>) -> Reply<System> {
    let mut conn = shell.conn().await?;
    let row = system_store::get_system(&mut conn, &system).await?;
    let etag = ETag::version(row.version);
    Ok(Answer::ok(row).etag(etag).metered(conn.meter()))
}

/// Change an external system
///
/// Checked in this order: path, `If-Match`, body, then whether the system exists and has a version that `If-Match` names.
/// A system that is retired gives no more ids to members; those that they have are found.
#[utoipa::path(patch, path = "/v1/external-systems/{system}", tag = "external systems",
    params(("system" = SystemId, Path), ("If-Match" = inline(IfMatch), Header)),
    responses((status = 200, description = "The system as it is now", body = System, headers(("ETag" = String)))))]
async fn update_external_system(
    app: Data<App>,
    shell: Data<Shell>,
    At(system): At<SystemId>,
    seen: IfMatch,
    Json(patch): Json<SystemPatch>,
) -> Reply<System> {
    let mut conn = shell.conn().await?;
    let row = system_store::update_system(&mut conn, &system, seen.versions(), &patch, shell.clock.now()).await?;
    app.systems.forget().await;
    let etag = ETag::version(row.version);
    Ok(Answer::ok(row).etag(etag).metered(conn.meter()))
}
