//! Imports of coupons over HTTP: send a file, look at it, start, pause, resume, cancel, fetch what failed.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::{CouponImport, Options, row};
use crate::{
    app::App,
    coupon::{bulk, http::window, issue_job::http::take_file},
    http::{ApiError, At, Caller, FileBody, Number, Page, Query, Reply, Routes, app::Shell, number::NumberText},
    id::JobId,
    job::{
        Act, Checkpoint, Failure, Job, JobError, JobView, Kind,
        file::FileReader,
        http::{self as jobs, FailureList, JobList, json},
        store::{NewJob, Uploaded},
        upload::{Upload, state_after},
    },
    member::import::http::FileName,
};

const KIND: Kind = Kind::CouponImport;
/// Rows that a preview looks at.
const PREVIEW_ROWS: usize = 1_000;
/// Failures that a preview shows.
const PREVIEW_FAILURES: usize = 20;

pub fn routes() -> Routes {
    crate::routes! {
        create_coupon_import(stream): FileInvalid, JobStateForbidden, JobLimitReached;
        list_coupon_imports;
        get_coupon_import: JobNotFound;
        list_coupon_import_failures: JobNotFound;
        start_coupon_import: JobNotFound, JobStateForbidden;
        pause_coupon_import: JobNotFound, JobStateForbidden;
        resume_coupon_import: JobNotFound, JobStateForbidden;
        cancel_coupon_import: JobNotFound, JobStateForbidden;
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// False: the job waits for `start`, so that its preview can be looked at first. True if absent.
    start: Option<bool>,
    #[param(inline)]
    file_name: Option<FileName>,
}

/// What the first rows of a file look like.
#[derive(Debug, Serialize)]
struct Preview {
    /// Rows that were looked at. Whether codes are known, members exist and limits allow it was not.
    rows: i64,
    /// How many rows there are, by the length of those looked at.
    rows_estimate: i64,
    rows_failed: usize,
    /// The first of them.
    failures: Vec<Failure>,
}

/// Import coupons
///
/// The body is a CSV file, of which a row is a coupon of an older system. Its first line names the columns: `code` (the old
/// one, of a registered shape), `rule_id`, `issued_on`, and as they apply one of `member_id`, `phone`, `email`, `username`,
/// `card`, `external` and `external:<system>`, `state` (`issued`, `redeemed`, `void`, `expired`), `uses`, `valid_from`,
/// `valid_until` (of a day its end; both by the rule if absent), and of its last use `redeemed_at`, `store_id`, `order_ref`,
/// `amount`, `discount`; `-` is passed over. Each coupon gets a code of ours besides, and every operation takes either. Rows
/// that are wrong are named under `failures`; the others come in. Coupons count towards stock and limits of their rules,
/// unless they are void. A file that is sent twice doubles nothing: rows of codes that came by another file are skipped,
/// if rule, day and holder are the same and the file tells of no use that is unknown here. Checked in this order: query,
/// number, type of the body, files at once, jobs that have not ended, columns, size.
#[utoipa::path(post, path = "/v1/coupon-imports", tag = "coupon imports",
    params(ImportQuery, ("Idempotency-Key" = inline(Option<NumberText>), Header, description = "The request's number")),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 201, description = "The job", body = JobView, headers(("ETag" = String), ("Location" = String)))))]
async fn create_coupon_import(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    number: Number,
    mut body: FileBody,
) -> Reply<JobView> {
    let numbers = jobs::numbers_if_given(&number, &caller, &window(&app, &shell))?;
    let new = NewJob {
        job_id: app.minter.mint_job().map_err(JobError::from)?,
        kind: KIND,
        created_by: caller.scope(),
        file_name: query.file_name.map(FileName::into_string),
        options: json(&Options { columns: Vec::new() }),
    };
    let (import, starts) = (&app.jobs.coupons().import, query.start.unwrap_or(true));
    let take = async |upload: &mut Upload<'_>| take(&shell, import, &mut body, upload, numbers, starts).await;
    jobs::create(&app, &shell, new, take, |job_id| format!("/v1/coupon-imports/{job_id}")).await
}

async fn take(
    shell: &Shell,
    import: &CouponImport,
    body: &mut FileBody,
    upload: &mut Upload<'_>,
    numbers: Vec<String>,
    starts: bool,
) -> Result<(Job, bool), ApiError> {
    let mut options = Options { columns: Vec::new() };
    let (bytes, digest) = take_file(shell, body, upload, |head| {
        options.columns = bulk::header(head)?;
        row::columns(&options.columns).map(|_| ())
    })
    .await?;
    let secrets = std::sync::Arc::clone(&import.desk.secrets);
    let mut file = FileReader::new(shell.office.clone(), secrets, upload.new.job_id, bytes);
    let raw = file.read(Checkpoint::default(), PREVIEW_ROWS, b',', true).await?;
    let rows = raw.len() as i64;
    let rows_estimate = if raw.is_last { rows } else { bytes.saturating_mul(rows) / raw.end.bytes.max(1) };
    let (_, mut failures) = Box::pin(import.read(&options, raw)).await?;
    failures.sort_by_key(|failure| failure.ordinal);
    let rows_failed = failures.len();
    failures.truncate(PREVIEW_FAILURES);
    let preview = json(&Preview { rows, rows_estimate, rows_failed, failures });
    let uploaded = Uploaded { digest, numbers, options: json(&options), preview, state: state_after(starts) };
    Ok(upload.end(&uploaded, shell.clock.now()).await?)
}

/// List imports of coupons
///
/// The newest first.
#[utoipa::path(get, path = "/v1/coupon-imports", tag = "coupon imports", params(JobList),
    responses((status = 200, description = "A page of jobs", body = Page<JobView>)))]
async fn list_coupon_imports(shell: Data<Shell>, Query(list): Query<JobList>) -> Reply<Page<JobView>> {
    jobs::list(&shell, KIND, list).await
}

/// Get an import of coupons
///
/// How far it came.
#[utoipa::path(get, path = "/v1/coupon-imports/{job_id}", tag = "coupon imports", params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn get_coupon_import(shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::get(&shell, KIND, job_id).await
}

/// List the rows of an import of coupons that failed
///
/// By line, column and code, in the order of the file; nothing of what stood in them. With `Accept: text/csv` all of them
/// as a file, from the cursor on.
///
/// | code | what is wrong |
/// |---|---|
/// | `row_too_long`, `row_malformed`, `encoding_invalid` | as in any file |
/// | `code_missing` | there is no old code |
/// | `coupon_code_collides` | the old code passes the check of ours, so that nobody could tell which is meant |
/// | `legacy_shape_unknown` | it has no registered shape |
/// | `legacy_code_repeated` | the file has it in an earlier row |
/// | `legacy_code_taken` | it stands for another coupon already |
/// | `rule_not_found`, `store_not_found` | there is none |
/// | `identifier_invalid` | what says who holds it is not of its kind |
/// | `date_invalid` | a day or a time is none, is to come, or does not fit the others |
/// | `value_invalid` | another field, or the state with the uses |
/// | `issue_day_unavailable` | there is no room for a coupon, or a use, of that day |
/// | `month_retired` | nor will there be any: the month was retired, or is being so |
/// | `member_not_found`, `member_cancelled`, `member_kind_forbidden` | the holder may not hold it |
/// | `stock_exhausted`, `member_limit_reached` | as for a coupon that is issued |
#[utoipa::path(get, path = "/v1/coupon-imports/{job_id}/failures", tag = "coupon imports",
    params(("job_id" = JobId, Path), FailureList),
    responses((status = 200, description = "A page of failures, or all of them", content(
        (Page<Failure> = "application/json"),
        (String = "text/csv"),
    ))))]
async fn list_coupon_import_failures(
    shell: Data<Shell>,
    request: HttpRequest,
    At(job_id): At<JobId>,
    Query(list): Query<FailureList>,
) -> Result<HttpResponse, ApiError> {
    jobs::failures(shell, &request, KIND, job_id, list).await
}

/// Start an import of coupons
///
/// One that runs stays as it is.
#[utoipa::path(post, path = "/v1/coupon-imports/{job_id}/start", tag = "coupon imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn start_coupon_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Start).await
}

/// Pause an import of coupons
///
/// After the rows under way, within a second or so. One that is paused stays as it is.
#[utoipa::path(post, path = "/v1/coupon-imports/{job_id}/pause", tag = "coupon imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn pause_coupon_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Pause).await
}

/// Resume an import of coupons
///
/// It goes on where it stood. One that runs stays as it is. One that failed with `gave_up` is taken up again, too.
#[utoipa::path(post, path = "/v1/coupon-imports/{job_id}/resume", tag = "coupon imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn resume_coupon_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Resume).await
}

/// Cancel an import of coupons
///
/// For good; what was imported stays. One that is cancelled stays as it is.
#[utoipa::path(post, path = "/v1/coupon-imports/{job_id}/cancel", tag = "coupon imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn cancel_coupon_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Cancel).await
}
