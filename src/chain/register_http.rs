//! Registers over HTTP.

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    StoreId,
    register::{Register, RegisterForm, RegisterView, list_registers as list, put_register as put},
    store,
};
use crate::{
    http::{Answer, At, Caller, Cursor, ETag, Json, Page, PageLimit, Query, Reply, Routes, app::Shell, page::limit_of},
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_registers: StoreNotFound;
        put_register: StoreNotFound;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RegisterList {
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Registers a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// List the registers of a store
///
/// In the order of their names. A till may ask for its own store.
#[utoipa::path(get, path = "/v1/stores/{store_id}/registers", tag = "stores",
    params(("store_id" = StoreId, Path), RegisterList),
    responses((status = 200, description = "A page of registers", body = Page<RegisterView>)))]
async fn list_registers(
    shell: Data<Shell>,
    caller: Caller,
    At(store_id): At<StoreId>,
    Query(query): Query<RegisterList>,
) -> Reply<Page<RegisterView>> {
    caller.must_be_at(&store_id)?;
    let limit = limit_of(query.limit);
    let after = query.cursor.map(|cursor| cursor.key(&store_id)).transpose()?;
    if after.as_deref().is_some_and(|after| Register::parse(after).is_err()) {
        return Err(Refusal::new(Code::MalformedQuery).with("parameter", "cursor").into());
    }
    let mut conn = shell.conn().await?;
    let store = store::get_store(&mut conn, &store_id).await?;
    let rows = list(&mut conn, store.store_no, after.as_deref(), limit + 1).await?;
    Ok(Answer::ok(Page::new(rows, limit, &store_id, |row| row.register.to_string())).metered(conn.meter()))
}

/// Make or change a register
///
/// It is what the body says afterwards; the same again changes nothing. A store whose `registers` are `registered` takes
/// redemptions, undos and locks of active registers only; tills of all nodes feel a change within 2 seconds.
#[utoipa::path(put, path = "/v1/stores/{store_id}/registers/{register}", tag = "stores",
    params(("store_id" = StoreId, Path), ("register" = Register, Path)),
    responses(
        (status = 200, description = "The register as it is now", body = RegisterView, headers(("ETag" = String))),
        (status = 201, description = "The register, which is new", body = RegisterView,
            headers(("ETag" = String), ("Location" = String)))))]
async fn put_register(
    shell: Data<Shell>,
    At((store_id, register)): At<(StoreId, Register)>,
    Json(body): Json<RegisterForm>,
) -> Reply<RegisterView> {
    let mut conn = shell.conn().await?;
    let store = store::get_store(&mut conn, &store_id).await?;
    let (row, made) = put(&mut conn, store.store_no, &register, &body, shell.clock.now()).await?;
    let etag = ETag::version(row.version);
    let answer = match made {
        true => Answer::created(row, format!("/v1/stores/{store_id}/registers/{register}")),
        false => Answer::ok(row),
    };
    Ok(answer.etag(etag).metered(conn.meter()))
}
