//! Issue jobs over HTTP: send a file or a count, look at it, start, pause, resume, cancel, fetch codes and failures, undo.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};

use super::{Options, codes, undo};
use crate::{
    app::App,
    chain::key::Role,
    coupon::{
        http::{Referrer, window},
        rule::Rule,
    },
    db::tx,
    http::{
        Answer, ApiError, At, Caller, ETag, FileBody, FileOrJson, Number, Page, Query, Reply, Routes, TillNumber,
        app::Shell,
        input::{Int, present},
        number::NumberText,
    },
    id::{Day, JobId, RuleId},
    job::{
        Act, Failure, Job, JobError, JobView, Kind, State,
        file::{CHUNK_BYTES, FileReader, ROW_BYTES_MAX},
        http::{self as jobs, FailureList, JobList, json},
        range,
        store::{self, NewJob, Uploaded},
        upload::{Upload, state_after},
    },
    member::import::http::FileName,
    problem::{Code, Refusal},
    request::Operation,
};

/// Coupons that an undo left alone, looked at together when it is asked for again.
const UNDO_LOOK_ROWS: i64 = 200;
/// So many times.
const UNDO_LOOK_PAGES: usize = 25;
/// Both are shown where the jobs of a rule are.
const KINDS: &[Kind] = &[Kind::IssueJob, Kind::IssueUndo];

pub fn routes() -> Routes {
    crate::routes! {
        create_issue_job(stream): RuleNotFound, FileInvalid, JobStateForbidden, JobLimitReached, IssueDayUnavailable, MonthRetired;
        list_issue_jobs: RuleNotFound;
        get_issue_job: JobNotFound;
        list_issue_job_failures: JobNotFound;
        list_issue_job_codes: JobNotFound;
        start_issue_job: JobNotFound, JobStateForbidden;
        pause_issue_job: JobNotFound, JobStateForbidden;
        resume_issue_job: JobNotFound, JobStateForbidden;
        cancel_issue_job: JobNotFound, JobStateForbidden;
        undo_issue_job: JobNotFound, JobStateForbidden;
    }
}

/// So many coupons without a holder.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IssueJobBody)]
pub struct CountBody {
    count: Int<1, 100_000_000>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    referrer: Option<Referrer>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct IssueQuery {
    /// True: the job starts at once, unless its preview warns of the rule or of its stock. False if absent: it waits for
    /// `start`, so that its preview can be looked at first.
    start: Option<bool>,
    /// As if on this day of the past: the codes carry it, and validity and the stock of a day are counted from it. For
    /// admins.
    issued_on: Option<Day>,
    #[param(inline)]
    file_name: Option<FileName>,
}

/// Issue coupons as a job
///
/// The body is a CSV file of which a row is a member, or JSON with a `count` of coupons without a holder. A file's first line
/// names the columns: one of `member_id`, `phone`, `email`, `username`, `card`, `external` (such as `web:42`) and
/// `external:<system>`, and beside it `referrer`, `count` (1 to 1000; 1 if absent) and `-` for what is passed over. Each row
/// is decided as a request to issue would be, all of its coupons or none, and named under `failures` when it is refused. The
/// answer's `preview` says how many members are reached, which rows fail, how many coupons there will be, what they may take
/// off at most (`money_at_risk`), what is left of stock and budget, and warns where that is less. The job pauses by itself
/// when its rule is not active, or its day has no partition. Under the same `Idempotency-Key` the same file or count is the
/// same job. Checked in this order: query, role (with `issued_on`), number, type of the body, the rule exists, `issued_on`,
/// files at once, jobs that have not ended, columns, size.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/issue-jobs", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), IssueQuery,
        ("Idempotency-Key" = inline(NumberText), Header, description = "The request's number")),
    request_body(content((CountBody = "application/json"), (String = "text/csv"))),
    responses((status = 201, description = "The job", body = JobView, headers(("ETag" = String), ("Location" = String)))))]
async fn create_issue_job(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At(rule_id): At<RuleId>,
    Query(query): Query<IssueQuery>,
    number: Number,
    body: FileOrJson<CountBody>,
) -> Reply<JobView> {
    if query.issued_on.is_some() {
        caller.must(&[Role::Admin])?;
    }
    let number = number.of(&caller, Operation::Import, TillNumber::default(), &window(&app, &shell))?;
    let numbers = jobs::numbers_of(&number);
    let rule = app.desk.rule(rule_id).await?.ok_or(Code::RuleNotFound).map_err(Refusal::new)?;
    if let Some(day) = query.issued_on {
        app.desk.check_issue_day(day).await?;
    }
    let mut options = Options {
        rule_id,
        columns: Vec::new(),
        count: None,
        issued_on: query.issued_on,
        referrer: None,
        undone_by: None,
    };
    let new = NewJob {
        job_id: app.minter.mint_job().map_err(JobError::from)?,
        kind: Kind::IssueJob,
        created_by: caller.scope(),
        file_name: query.file_name.map(FileName::into_string),
        options: json(&options),
    };
    let starts = query.start.unwrap_or(false);
    let take =
        async |upload: &mut Upload<'_>| take(&app, &shell, &rule, &mut options, body, upload, numbers, starts).await;
    jobs::create(&app, &shell, new, take, |job_id| location_of(rule_id, job_id)).await
}

fn location_of(rule_id: RuleId, job_id: JobId) -> String {
    format!("/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}")
}

/// Takes in what the job is about, and has a look at it.
#[expect(clippy::too_many_arguments, reason = "all of a request that a job comes of")]
async fn take(
    app: &App,
    shell: &Shell,
    rule: &std::sync::Arc<Rule>,
    options: &mut Options,
    body: FileOrJson<CountBody>,
    upload: &mut Upload<'_>,
    numbers: Vec<String>,
    starts: bool,
) -> Result<(Job, bool), ApiError> {
    let (bytes, digest) = match body {
        FileOrJson::Json(body) => {
            let count = body.count.get();
            options.count = Some(count);
            options.referrer = body.referrer.map(Referrer::into_string);
            (count, upload.count(count, shell.clock.now()).await?)
        }
        FileOrJson::File(mut body) => {
            take_file(shell, &mut body, upload, |head| {
                options.columns = crate::coupon::bulk::header(head)?;
                super::columns(&options.columns).map(|_| ())
            })
            .await?
        }
    };
    let mut file = FileReader::new(shell.office.clone(), std::sync::Arc::clone(&app.secrets), upload.new.job_id, bytes);
    let preview = Box::pin(app.jobs.coupons().issue.preview(options, rule, &mut file, bytes)).await?;
    let state = state_after(starts && !preview.holds_back());
    let uploaded = Uploaded { digest, numbers, options: json(options), preview: json(&preview), state };
    Ok(upload.end(&uploaded, shell.clock.now()).await?)
}

/// Takes a file in: first enough of it to see its columns, then the rest. Gives its bytes and its digest.
pub(in crate::coupon) async fn take_file(
    shell: &Shell,
    body: &mut FileBody,
    upload: &mut Upload<'_>,
    mut look_at: impl FnMut(&[u8]) -> Result<(), Refusal>,
) -> Result<(i64, uuid::Uuid), ApiError> {
    let mut seen = false;
    while let Some(piece) = body.next().await? {
        // The head must be looked at before it is gone with its piece.
        for part in piece.chunks(CHUNK_BYTES / 2) {
            if !seen && upload.head().is_some_and(|head| head.len() > ROW_BYTES_MAX) {
                look_at(upload.head().unwrap_or_default())?;
                seen = true;
            }
            upload.push(part, shell.clock.now()).await?;
        }
    }
    if !seen {
        look_at(upload.head().unwrap_or_default())?;
    }
    Ok(upload.finish(shell.clock.now()).await?)
}

/// A job of a rule, of either kind.
///
/// # Errors
/// `job_not_found`, also when it is of another rule.
async fn find(conn: &mut PgConnection, rule_id: RuleId, job_id: JobId) -> Result<Job, JobError> {
    for kind in KINDS {
        match store::get_job(conn, *kind, job_id).await {
            Ok(job) if job.options["rule_id"] == json(&rule_id) => return Ok(job),
            Ok(_) => break,
            Err(JobError::Refused(refusal)) if refusal.code == Code::JobNotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(Code::JobNotFound.into())
}

async fn act(app: &App, shell: &Shell, (rule_id, job_id): (RuleId, JobId), act: Act) -> Reply<JobView> {
    let kind = find(&mut *shell.conn().await?, rule_id, job_id).await?.kind;
    jobs::act(app, shell, kind, job_id, act).await
}

/// List the issue jobs of a rule
///
/// The newest first, those that take others back among them.
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}/issue-jobs", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), JobList),
    responses((status = 200, description = "A page of jobs", body = Page<JobView>)))]
async fn list_issue_jobs(
    app: Data<App>,
    shell: Data<Shell>,
    At(rule_id): At<RuleId>,
    Query(list): Query<JobList>,
) -> Reply<Page<JobView>> {
    app.desk.rule(rule_id).await?.ok_or(Code::RuleNotFound).map_err(Refusal::new)?;
    jobs::list_of_rule(&shell, KINDS, rule_id, list).await
}

/// Get an issue job
///
/// How far it came.
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn get_issue_job(shell: Data<Shell>, At((rule_id, job_id)): At<(RuleId, JobId)>) -> Reply<JobView> {
    let mut conn = shell.conn().await?;
    let job = find(&mut conn, rule_id, job_id).await?;
    Ok(Answer::ok(job.show()).etag(ETag::version(job.version)).metered(conn.meter()))
}

/// List what failed in an issue job
///
/// By row, line, column and code; nothing of what stood in them. With `Accept: text/csv` all of them as a file, from the
/// cursor on. Of a count, the first coupon that failed stands for those after it. Of an undo, rows are those of the list of
/// codes of the job that is taken back.
///
/// | code | what is wrong |
/// |---|---|
/// | `row_too_long` | the line has more bytes than a row may have |
/// | `row_malformed` | it is not CSV, or has more or fewer fields than there are columns |
/// | `encoding_invalid` | a field is not text in UTF-8 |
/// | `identifier_invalid` | what says who is not of its kind |
/// | `identifier_missing` | there is none |
/// | `value_invalid` | another field has a value that it may not have |
/// | `member_not_found`, `member_frozen`, `member_cancelled`, `member_kind_forbidden` | the member gets none |
/// | `stock_exhausted` | the rule had not enough left for the row |
/// | `member_limit_reached` | the member has as many of the rule as allowed |
/// | `month_retired` | the month of `issued_on` was put away since the job was made |
/// | `coupon_already_redeemed` | of an undo: a use of the coupon stands |
/// | `coupon_not_found` | of an undo: its month was retired |
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}/failures", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path), FailureList),
    responses((status = 200, description = "A page of failures", content(
        (Page<Failure> = "application/json"), (String = "text/csv")))))]
async fn list_issue_job_failures(
    shell: Data<Shell>,
    request: HttpRequest,
    At((rule_id, job_id)): At<(RuleId, JobId)>,
    Query(list): Query<FailureList>,
) -> Result<HttpResponse, ApiError> {
    let kind = find(&mut *shell.conn().await?, rule_id, job_id).await?.kind;
    jobs::failures(shell, &request, kind, job_id, list).await
}

/// Get the codes of an issue job
///
/// All that it has made so far as a CSV file, in the order of the job: `row`, `code`, `state`, `member_id`, `valid_from`,
/// `valid_until`. Who has this file can use the coupons.
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}/codes", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path)),
    responses((status = 200, description = "The codes", body = String, content_type = "text/csv")))]
async fn list_issue_job_codes(
    app: Data<App>,
    shell: Data<Shell>,
    At((rule_id, job_id)): At<(RuleId, JobId)>,
) -> Result<HttpResponse, ApiError> {
    let job = find(&mut *shell.conn().await?, rule_id, job_id).await?;
    if job.kind != Kind::IssueJob {
        return Err(Refusal::new(Code::JobNotFound).into());
    }
    Ok(codes::file(app, shell, job_id))
}

/// Start an issue job
///
/// One that runs stays as it is.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}/start", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn start_issue_job(app: Data<App>, shell: Data<Shell>, At(path): At<(RuleId, JobId)>) -> Reply<JobView> {
    act(&app, &shell, path, Act::Start).await
}

/// Pause an issue job
///
/// After the coupons under way, within a second or so. One that is paused stays as it is.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}/pause", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn pause_issue_job(app: Data<App>, shell: Data<Shell>, At(path): At<(RuleId, JobId)>) -> Reply<JobView> {
    act(&app, &shell, path, Act::Pause).await
}

/// Resume an issue job
///
/// It goes on where it stood. One that runs stays as it is. One that failed with `gave_up` is taken up again, too.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}/resume", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn resume_issue_job(app: Data<App>, shell: Data<Shell>, At(path): At<(RuleId, JobId)>) -> Reply<JobView> {
    act(&app, &shell, path, Act::Resume).await
}

/// Cancel an issue job
///
/// For good; what it issued stays, unless it is undone. One that is cancelled stays as it is.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}/cancel", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn cancel_issue_job(app: Data<App>, shell: Data<Shell>, At(path): At<(RuleId, JobId)>) -> Reply<JobView> {
    act(&app, &shell, path, Act::Cancel).await
}

/// The undo of a job, if it has ended and one of the first coupons that it left alone is not used any more.
async fn came_back(app: &App, shell: &Shell, job_id: JobId) -> Result<Option<JobId>, ApiError> {
    let known = {
        let mut conn = shell.conn().await?;
        let of = store::get_job(&mut conn, Kind::IssueJob, job_id).await?;
        let known = Options::of(&of)?.undone_by.and_then(|known| known.parse::<JobId>().ok());
        let Some(known) = known else { return Ok(None) };
        match store::get_job(&mut conn, Kind::IssueUndo, known).await {
            Ok(known) if known.state == State::Done && known.rows_failed > 0 => known.job_id,
            Ok(_) | Err(JobError::Refused(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut after = 0;
    for _ in 0..UNDO_LOOK_PAGES {
        let mut conn = shell.conn().await?;
        let failures = store::list_failures(&mut conn, known, after, UNDO_LOOK_ROWS).await?;
        let Some(last) = failures.last() else { return Ok(None) };
        after = last.ordinal;
        let mut codes = Vec::with_capacity(failures.len());
        for failure in failures.iter().filter(|failure| failure.code == Code::CouponAlreadyRedeemed.name()) {
            codes.extend(undo::code_ids(&app.desk, &mut conn, job_id, failure.ordinal - 1, 1).await?);
        }
        drop(conn);
        let coupons = app.desk.find_coupons(codes).await?;
        if coupons.into_values().any(|coupon| coupon.void(String::new()).is_ok()) {
            return Ok(Some(known));
        }
    }
    Ok(None)
}

/// Undo an issue job
///
/// The coupons that it made are made void, as a job of its own, which this gives and which is looked at, paused and cancelled
/// as any other: `rows_ok` are now void and back in the stock and off their holders' limits, `rows_skipped` were void,
/// and `failures` lists those of which a use stands. Only of a job that has ended; one that runs is cancelled first. Asked
/// again, the same undo is given, or a new one if that was cancelled, or if one of the first 5,000 uses that it met was
/// taken back since. Checked in this order: the job exists, its state.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/issue-jobs/{job_id}/undo", tag = "issue jobs",
    params(("rule_id" = RuleId, Path), ("job_id" = JobId, Path)),
    responses((status = 201, description = "The job that undoes it", body = JobView,
        headers(("ETag" = String), ("Location" = String)))))]
async fn undo_issue_job(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At((rule_id, job_id)): At<(RuleId, JobId)>,
) -> Reply<JobView> {
    find(&mut *shell.conn().await?, rule_id, job_id).await?;
    let (now, open_max) = (shell.clock.now(), app.jobs.open_max());
    let new = NewJob {
        job_id: app.minter.mint_job().map_err(JobError::from)?,
        kind: Kind::IssueUndo,
        created_by: caller.scope(),
        file_name: None,
        options: json(&undo::Options { rule_id, of: job_id }),
    };
    let digest = app.secrets.legacy(&format!("\0job\0undo\0{job_id}"));
    let new = &new;
    let came_back = came_back(&app, &shell, job_id).await?;
    let (job, replayed) = tx::run(&shell.office, "undo_issue_job", async move |conn: &mut PgConnection| {
        // In the order of locks: who asks, then the job.
        store::lock_caller(conn, &new.created_by, now).await?;
        let of = store::get_job_for_update(conn, Kind::IssueJob, job_id).await?;
        if !of.state.has_ended() {
            let refusal = Refusal::new(Code::JobStateForbidden).detail("it is cancelled first");
            return Err(JobError::from(refusal.with("state", of.state.name())));
        }
        if let Some(known) = Options::of(&of)?.undone_by.and_then(|known| known.parse().ok()) {
            match store::get_job(conn, Kind::IssueUndo, known).await {
                Ok(known) if came_back == Some(known.job_id) => {}
                Ok(known) if !matches!(known.state, State::Cancelled | State::Failed) => return Ok((known, true)),
                Ok(_) => {}
                Err(JobError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        store::insert_job(conn, new, open_max, now).await?;
        let coupons = range::count(conn, job_id).await?;
        store::grow_uploading(conn, new.job_id, coupons, now).await?;
        let (options, preview) = (new.options.clone(), serde_json::json!({ "coupons": coupons }));
        let uploaded = Uploaded { digest, numbers: Vec::new(), options, preview, state: State::Running };
        let job = store::update_uploaded(conn, new.job_id, &uploaded, now).await?;
        store::update_undone(conn, job_id, new.job_id, now).await?;
        let missing = || JobError::Inconsistent { table: "job", column: "job_id", key: new.job_id.to_string() };
        Ok((job.ok_or_else(missing)?, false))
    })
    .await?;
    app.jobs.wake();
    let (location, etag) = (location_of(rule_id, job.job_id), ETag::version(job.version));
    Ok(Answer::created(job.show(), location).etag(etag).replayed(replayed))
}
