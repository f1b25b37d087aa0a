//! The codes of a job as a file that is made while it is sent: computed from the job's ranges, and looked up for who holds
//! them and what became of them.

use actix_web::{
    HttpResponse,
    http::header,
    web::{Bytes, Data},
};
use futures_util::{StreamExt, stream};

use super::undo::code_ids;
use crate::{
    app::App,
    coupon::{instant, issue_job::of_desk},
    http::app::Shell,
    id::JobId,
    job::JobError,
};

/// Codes that are looked up at once.
const AT_ONCE: usize = 250;

/// `row,code,state,member_id,valid_from,valid_until`; a coupon whose month was retired has its code alone.
pub fn file(app: Data<App>, shell: Data<Shell>, job_id: JobId) -> HttpResponse {
    let head = stream::iter([Ok(Bytes::from_static(b"row,code,state,member_id,valid_from,valid_until\r\n"))]);
    let rows = stream::try_unfold(Some(0_i64), move |from| {
        let (app, shell) = (app.clone(), shell.clone());
        async move {
            let Some(from) = from else { return Ok::<_, JobError>(None) };
            let codes = {
                let mut conn = shell.office.get().await?;
                code_ids(&app.desk, &mut conn, job_id, from, AT_ONCE).await?
            };
            let found = app.desk.find_coupons(codes.clone()).await.map_err(of_desk)?;
            let (keys, now) = (app.desk.secrets.codes(), shell.clock.now());
            let mut text = String::with_capacity(codes.len() * 96);
            for (row, code_id) in (from + 1..).zip(&codes) {
                text.push_str(&format!("{row},{},", keys.format(*code_id)));
                if let Some(coupon) = found.get(code_id) {
                    let state = serde_json::to_value(coupon.state_name(now)).unwrap_or_default();
                    let holder = coupon.holder.map_or(String::new(), |member_id| member_id.to_string());
                    let state = state.as_str().unwrap_or_default();
                    let (from, until) = (instant(coupon.valid_from), instant(coupon.valid_until));
                    text.push_str(&format!("{state},{holder},{from},{until}\r\n"));
                } else {
                    text.push_str(",,,\r\n");
                }
            }
            let next = (codes.len() == AT_ONCE).then_some(from + codes.len() as i64);
            Ok(Some((Bytes::from(text), next)))
        }
    });
    HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"codes-{job_id}.csv\"")))
        .streaming(head.chain(rows))
}
