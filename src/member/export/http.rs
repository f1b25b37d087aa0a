//! The export of a person over HTTP.

use actix_web::web::Data;
use futures_util::future::try_join_all;
use serde::Serialize;
use utoipa::ToSchema;

use super::{super::http::actor, COUPONS_MAX, ExportedKey, ExportedMember, LogLine, store};
use crate::{
    app::App,
    coupon::http::CouponView,
    http::{Answer, ApiError, At, Caller, Reply, Routes, app::Shell},
    id::{CodeId, MemberId},
    meter::Meter,
};

/// Coupons that are read at once.
const PAGE: i64 = 200;

pub fn routes() -> Routes {
    crate::routes! {
        export_member: MemberNotFound;
    }
}

/// Everything that is known of a person.
#[derive(Serialize, ToSchema)]
struct Exported {
    member: ExportedMember,
    keys: Vec<ExportedKey>,
    /// By table: addresses, devices, location, profiles, roles, tags.
    #[schema(value_type = Object)]
    family: serde_json::Value,
    /// What the member holds and held, with the last use of each.
    coupons: Vec<CouponView>,
    /// There are more than an export holds.
    more_coupons: bool,
    /// How the member came to be and what was changed since.
    log: Vec<LogLine>,
    /// There is more than an export holds.
    more_log: bool,
}

/// Export what is known of a person
///
/// Unmasked, for the person. Audited; nothing of it is stored, and the answer must not be kept. An API key may ask as
/// often as it may reveal. Of an erased member it shows what is left. Checked in this order: path, the caller's rate,
/// whether the member exists.
#[utoipa::path(post, path = "/v1/members/{member_id}/export", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "Everything", body = Exported, headers(("Cache-Control" = String)))))]
async fn export_member(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At(member_id): At<MemberId>,
) -> Reply<Exported> {
    shell.limits.reveal(&caller)?;
    let (person, cost) = app.members.export(actor(&caller), member_id).await?;
    let person = person.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    let mut meter = Meter::from(cost);
    let mut coupons = Vec::new();
    let mut after: Option<CodeId> = None;
    let more_coupons = loop {
        let ids = {
            let mut conn = shell.conn().await?;
            let ids = store::list_coupons(&mut conn, member_id, after, PAGE).await.map_err(ApiError::internal)?;
            meter += Meter { leaves: 1, ..conn.meter() };
            ids
        };
        let found = try_join_all(ids.iter().map(|code_id| app.desk.find_coupon(*code_id))).await?;
        let view = |coupon: crate::coupon::Coupon| {
            let code = app.desk.secrets.codes().format(coupon.code_id);
            CouponView::new(coupon, code, shell.clock.now())
        };
        for (coupon, spent) in found {
            meter += spent.into();
            coupons.extend(coupon.map(view));
        }
        after = ids.last().copied();
        match ids.len() as i64 {
            PAGE if coupons.len() >= COUPONS_MAX => break true,
            PAGE => {}
            _ => break false,
        }
    };
    let exported = Exported {
        member: person.member,
        keys: person.keys,
        family: person.family,
        coupons,
        more_coupons,
        log: person.log,
        more_log: person.more_log,
    };
    Ok(Answer::ok(exported).no_store().metered(meter))
}
