//! Shapes of old codes over HTTP.

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::IntoParams;

use super::legacy::{self, NewShape, Shape, ShapeName};
use crate::{
    app::App,
    http::{Answer, ApiError, Cursor, Json, Page, PageLimit, Query, Reply, Routes, app::Shell, page::limit_of},
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_legacy_code_shapes;
        create_legacy_code_shape: LegacyShapeExists;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ShapeList {
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Shapes a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// List shapes of old codes
///
/// In the order of their names.
#[utoipa::path(get, path = "/v1/legacy-code-shapes", tag = "coupon imports", params(ShapeList),
    responses((status = 200, description = "A page of shapes", body = Page<Shape>)))]
async fn list_legacy_code_shapes(shell: Data<Shell>, Query(list): Query<ShapeList>) -> Reply<Page<Shape>> {
    let limit = limit_of(list.limit);
    let after = list.cursor.map(|cursor| cursor.key(&"shapes")).transpose()?;
    if after.as_deref().is_some_and(|after| ShapeName::parse(after).is_err()) {
        return Err(Refusal::new(Code::MalformedQuery).with("parameter", "cursor").into());
    }
    let mut conn = shell.conn().await?;
    let rows = legacy::list_shapes(&mut conn, after.as_deref(), limit + 1).await?;
    Ok(Answer::ok(Page::new(rows, limit, &"shapes", |row| row.name.to_string())).metered(conn.meter()))
}

/// Register a shape of old codes
///
/// Coupons with codes of this shape can be imported, and from then on every operation that takes a code takes theirs, on
/// every node within 2 seconds. A code is read in whatever way it was typed, as far as its shape can tell: the case of
/// letters that the alphabet has in one case only does not matter, nor do spaces and hyphens that it does not have. A shape
/// stays as it is for good. Checked in this order: body, lengths, whether one of this name exists.
#[utoipa::path(post, path = "/v1/legacy-code-shapes", tag = "coupon imports",
    responses((status = 201, description = "The shape", body = Shape)))]
async fn create_legacy_code_shape(app: Data<App>, shell: Data<Shell>, Json(new): Json<NewShape>) -> Reply<Shape> {
    if new.length_max.get() < new.length_min.get() {
        return Err(ApiError::invalid_field("length_max", "is less than length_min"));
    }
    let mut conn = shell.conn().await?;
    let shape = legacy::insert_shape(&mut conn, &new, shell.clock.now()).await?;
    app.desk.shapes.forget().await;
    Ok(Answer::made(shape).metered(conn.meter()))
}
