//! Regions over HTTP.

use actix_web::web::{self, Data};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::{
    RegionId, RegistryState,
    import::{ImportQuery, ImportReport},
    region::{NewRegion, Region, RegionPatch},
    region_import, region_store,
};
use crate::{
    http::{
        Answer, ApiError, At, Cursor, ETag, IfMatch, Json, Page, PageLimit, Query, Reply, Routes, app::Shell, csv::Csv,
        page::limit_of,
    },
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_regions;
        create_region: RegionExists, RegionNotFound, RegionTooDeep;
        get_region: RegionNotFound;
        update_region: RegionNotFound, RegionCycle, RegionTooDeep;
        import_regions(body 8_388_608): MalformedCsv;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RegionList {
    /// Only regions of this state.
    state: Option<RegistryState>,
    /// Only regions right below this one.
    #[param(inline)]
    parent: Option<RegionId>,
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Regions a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// List regions
///
/// In the order of their ids.
#[utoipa::path(get, path = "/v1/regions", tag = "regions", params(RegionList),
    responses((status = 200, description = "A page of regions", body = Page<Region>)))]
async fn list_regions(shell: Data<Shell>, Query(list): Query<RegionList>) -> Reply<Page<Region>> {
    #[derive(Serialize)]
    struct Filter<'a>(Option<RegistryState>, Option<&'a RegionId>);
    let (filter, limit) = (Filter(list.state, list.parent.as_ref()), limit_of(list.limit));
    let after = list.cursor.map(|cursor| cursor.key(&filter)).transpose()?;
    if after.as_deref().is_some_and(|after| RegionId::parse(after).is_err()) {
        return Err(Refusal::new(Code::MalformedQuery).with("parameter", "cursor").into());
    }
    let mut conn = shell.conn().await?;
    let rows = region_store::list_regions(&mut conn, filter.0, filter.1, after.as_deref(), limit + 1).await?;
    Ok(Answer::ok(Page::new(rows, limit, &filter, |region| region.region_id.to_string())).metered(conn.meter()))
}

/// Make a region
///
/// Checked in this order: body, whether the id is taken, whether the parent exists, and the depth, which is 8 at most.
#[utoipa::path(post, path = "/v1/regions", tag = "regions", responses(
    (status = 201, description = "The region", body = Region, headers(("ETag" = String), ("Location" = String)))))]
async fn create_region(shell: Data<Shell>, Json(new): Json<NewRegion>) -> Reply<Region> {
    let region = region_store::create_region(&shell.office, new, shell.clock.now()).await?;
    let (location, etag) = (format!("/v1/regions/{}", region.region_id), ETag::version(region.version));
    Ok(Answer::created(region, location).etag(etag))
}

/// Get a region
#[utoipa::path(get, path = "/v1/regions/{region_id}", tag = "regions", params(("region_id" = RegionId, Path)),
    responses((status = 200, description = "The region", body = Region, headers(("ETag" = String)))))]
async fn get_region(shell: Data<Shell>, At(region_id): At<RegionId>) -> Reply<Region> {
    let mut conn = shell.conn().await?;
    let region = region_store::get_region(&mut conn, &region_id).await?;
    let etag = ETag::version(region.version);
    Ok(Answer::ok(region).etag(etag).metered(conn.meter()))
}

/// Change a region
///
/// Checked in this order: path, `If-Match`, body, whether the region exists and has a version that `If-Match` names,
/// whether the parent exists, whether the region would be below itself, and the depth with all that is below it. Of two
/// moves at once that would make a circle together, the second is refused.
#[utoipa::path(patch, path = "/v1/regions/{region_id}", tag = "regions",
    params(("region_id" = RegionId, Path), ("If-Match" = inline(IfMatch), Header)),
    responses((status = 200, description = "The region as it is now", body = Region, headers(("ETag" = String)))))]
async fn update_region(
    shell: Data<Shell>,
    At(region_id): At<RegionId>,
    seen: IfMatch,
    Json(patch): Json<RegionPatch>,
) -> Reply<Region> {
    let versions = seen.versions().map(<[i64]>::to_vec);
    let region = region_store::update_region(&shell.office, region_id, versions, patch, shell.clock.now()).await?;
    let etag = ETag::version(region.version);
    Ok(Answer::ok(region).etag(etag))
}

/// Import regions
///
/// A CSV with a header line: `region_id`, `name`, and `parent_id` and `state` if they are known. As for stores: good rows
/// go in, all at once; bad ones are named with line, column and code; the same file again changes nothing. A region may
/// stand before the one above it.
#[utoipa::path(post, path = "/v1/regions/import", tag = "regions", params(ImportQuery),
    request_body(content = String, content_type = "text/csv", description = "UTF-8, with or without a byte order mark"),
    responses((status = 200, description = "What was done, and what was not", body = ImportReport)))]
async fn import_regions(shell: Data<Shell>, Query(query): Query<ImportQuery>, Csv(body): Csv) -> Reply<ImportReport> {
    let rows = web::block(move || region_import::read(&body)).await.map_err(ApiError::internal)??;
    let report = region_import::put(&shell.office, rows, shell.clock.now(), query.dry_run.unwrap_or(false)).await?;
    Ok(Answer::ok(report))
}
