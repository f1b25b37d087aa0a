//! Stores over HTTP. The other domains' `http.rs` follow this file: request and answer types, the list of routes, one
//! short handler each.

use actix_web::web::{self, Data};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    ChainError, NewStore, RegionId, Store, StoreId, StorePatch, StoreState,
    import::{ImportQuery, ImportReport},
    store::{self, StoreFilter},
    store_import,
};
use crate::http::app::Shell;
use crate::http::csv::Csv;
use crate::http::page::limit_of;
use crate::http::{Answer, ApiError, At, Caller, Cursor, ETag, IfMatch, Json, Page, PageLimit, Query, Reply, Routes};
use crate::problem::{Code, Refusal};

pub fn routes() -> Routes {
    crate::routes! {
        list_stores;
        create_store: StoreExists, RegionNotFound, RegionRetired;
        get_store: StoreNotFound;
        update_store: StoreNotFound, RegionNotFound, RegionRetired;
        import_stores(body 8_388_608): MalformedCsv;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StoreList {
    /// Only stores of this state.
    state: Option<StoreState>,
    /// Only stores of this region and of those below it.
    #[param(inline)]
    region: Option<RegionId>,
    /// Only stores whose id begins so.
    #[param(inline)]
    prefix: Option<StoreId>,
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Stores a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// List stores
///
/// In the order of their ids.
#[utoipa::path(get, path = "/v1/stores", tag = "stores", params(StoreList),
    responses((status = 200, description = "A page of stores", body = Page<Store>)))]
async fn list_stores(shell: Data<Shell>, Query(list): Query<StoreList>) -> Reply<Page<Store>> {
    let filter = StoreFilter { state: list.state, region_id: list.region, prefix: list.prefix };
    let limit = limit_of(list.limit);
    let after = list.cursor.map(|cursor| cursor.key(&filter)).transpose()?;
    // The tag of a cursor binds its filter, not its key.
    if after.as_deref().is_some_and(|after| StoreId::parse(after).is_err()) {
        return Err(Refusal::new(Code::MalformedQuery).with("parameter", "cursor").into());
    }
    let mut conn = shell.conn().await?;
    let rows = store::list_stores(&mut conn, &filter, after.as_deref(), limit + 1).await?;
    Ok(Answer::ok(Page::new(rows, limit, &filter, |store| store.store_id.to_string())).metered(conn.meter()))
}

/// Make a store
///
/// It is open at once. Checked in this order: body, whether the id is taken, whether the region exists and is active.
#[utoipa::path(post, path = "/v1/stores", tag = "stores", responses(
    (status = 201, description = "The store", body = Store, headers(("ETag" = String), ("Location" = String)))))]
async fn create_store(shell: Data<Shell>, Json(new): Json<NewStore>) -> Reply<Store> {
    let mut conn = shell.conn().await?;
    let store = store::insert_store(&mut conn, &new, shell.clock.now()).await?;
    let (location, etag) = (format!("/v1/stores/{}", store.store_id), ETag::version(store.version));
    Ok(Answer::created(store, location).etag(etag).metered(conn.meter()))
}

/// Get a store
///
/// A till may ask for its own.
#[utoipa::path(get, path = "/v1/stores/{store_id}", tag = "stores", params(("store_id" = StoreId, Path)), responses(
    (status = 200, description = "The store", body = Store, headers(("ETag" = String)))))]
async fn get_store(shell: Data<Shell>, caller: Caller, At(store_id): At<StoreId>) -> Reply<Store> {
    caller.must_be_at(&store_id)?;
    let mut conn = shell.conn().await?;
    let store = store::get_store(&mut conn, &store_id).await?;
    let etag = ETag::version(store.version);
    Ok(Answer::ok(store).etag(etag).metered(conn.meter()))
}

/// Change a store
///
/// Checked in this order: path, `If-Match`, body, then whether the store exists, has a version that `If-Match` names, and
/// whether the region that it is moved to exists and is active. Tills of all nodes feel a change within 2 seconds. A
/// store that is closed or suspended neither registers members nor issues or redeems coupons (`store_closed`,
/// `store_suspended`); its tills take returned coupons back, when it is closed for 30 days more. What was answered under
/// a request number before is answered again.
#[utoipa::path(patch, path = "/v1/stores/{store_id}", tag = "stores",
    params(("store_id" = StoreId, Path), ("If-Match" = inline(IfMatch), Header)),
    responses((status = 200, description = "The store as it is now", body = Store, headers(("ETag" = String)))))]
async fn update_store(
    shell: Data<Shell>,
    At(store_id): At<StoreId>,
    seen: IfMatch,
    Json(patch): Json<StorePatch>,
) -> Reply<Store> {
    let mut conn = shell.conn().await?;
    let now = shell.clock.now();
    let today = shell.zone.day_of(now);
    let store = store::update_store(&mut conn, &store_id, seen.versions(), &patch, now, today).await?;
    let etag = ETag::version(store.version);
    Ok(Answer::ok(store).etag(etag).metered(conn.meter()))
}

/// Import stores
///
/// A CSV with a header line: `store_id` and `name`, and of `time_zone`, `state`, `region_id`, `city`, `address`, `phone`,
/// `opened_on` and `registers` those that are known. A store that exists is changed to what the file says: a column that
/// is not there leaves a field as it is, an empty cell clears it (for `state` and `registers` it leaves it). Good rows go
/// in, all at once; bad ones are named with line, column and code. The same file again changes nothing. A preview counts
/// and names the same and writes nothing. At most 20,000 rows.
#[utoipa::path(post, path = "/v1/stores/import", tag = "stores", params(ImportQuery),
    request_body(content = String, content_type = "text/csv", description = "UTF-8, with or without a byte order mark"),
    responses((status = 200, description = "What was done, and what was not", body = ImportReport)))]
async fn import_stores(shell: Data<Shell>, Query(query): Query<ImportQuery>, Csv(body): Csv) -> Reply<ImportReport> {
    let now = shell.clock.now();
    let rows = web::block(move || store_import::read(&body)).await.map_err(ApiError::internal)??;
    let report =
        store_import::put(&shell.office, rows, now, shell.zone.day_of(now), query.dry_run.unwrap_or(false)).await?;
    Ok(Answer::ok(report))
}

impl From<ChainError> for ApiError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Refused(refusal) => refusal.into(),
            ChainError::Database(error) => error.into(),
            ChainError::Inconsistent { .. } => Self::internal(error),
        }
    }
}
