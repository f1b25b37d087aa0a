//! What the endpoints of every kind of job share: pages, failures as JSON or as a file, acts.

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    http::header,
    web::{Bytes, Data},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::{
    Act, Failure, Job, JobError, JobView, Kind, State, line,
    store::{self, NewJob},
    upload::Upload,
};
use crate::{
    app::App,
    db::pool::Office,
    http::{Answer, ApiError, Caller, Cursor, ETag, Number, Page, PageLimit, Reply, app::Shell, page::limit_of},
    id::{JobId, RuleId},
    problem::{Code, Refusal},
    request::{Operation, RequestNumber, Window},
};

/// Failures that are read at once for a file.
const FILE_ROWS: i64 = 1_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobList {
    /// Only jobs of this state.
    pub state: Option<State>,
    #[param(inline)]
    pub cursor: Option<Cursor>,
    /// Jobs a page; 50 if absent.
    #[param(inline)]
    pub limit: Option<PageLimit>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FailureList {
    #[param(inline)]
    pub cursor: Option<Cursor>,
    /// Failures a page; 50 if absent.
    #[param(inline)]
    pub limit: Option<PageLimit>,
}

fn bad_cursor() -> Refusal {
    Refusal::new(Code::MalformedQuery).with("parameter", "cursor")
}

/// Makes a job of a request that brings a file or a count: takes it in by `take`, which says what the job became and whether
/// it is one that was made before. What was taken in before an error is taken back. `location` is the job's path.
///
/// # Errors
/// In this order: files at once, jobs that have not ended, those of `take`.
pub async fn create(
    app: &App,
    shell: &Shell,
    new: NewJob,
    take: impl AsyncFnOnce(&mut Upload<'_>) -> Result<(Job, bool), ApiError>,
    location: impl FnOnce(JobId) -> String,
) -> Reply<JobView> {
    let _place = app.jobs.upload_place()?;
    let mut upload = Upload::begin(&app.office, &app.secrets, new, app.jobs.open_max(), shell.clock.now()).await?;
    // In a box: what takes in a file is a large future.
    let (job, replayed) = match Box::pin(take(&mut upload)).await {
        Ok(taken) => taken,
        Err(error) => {
            upload.abandon().await;
            return Err(error);
        }
    };
    app.jobs.wake();
    let etag = ETag::version(job.version);
    Ok(Answer::created(job.show(), location(job.job_id)).etag(etag).replayed(replayed))
}

/// As jobs keep a caller's number: its day and its key, for each day on which it may stand.
pub fn numbers_of(number: &RequestNumber) -> Vec<String> {
    number.days.iter().map(|day| format!("{day}:{}", number.key)).collect()
}

/// The number of a request to import, as jobs keep it; nothing where the caller sent none.
///
/// # Errors
/// `request_number_expired` and the like.
pub fn numbers_if_given(number: &Number, caller: &Caller, window: &Window) -> Result<Vec<String>, Refusal> {
    let Some(source) = &number.0 else { return Ok(Vec::new()) };
    Ok(numbers_of(&RequestNumber::new(&caller.scope(), Operation::Import, source, window)?))
}

/// What a job keeps as JSON.
pub fn json<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).expect("plain structs with string keys always serialise")
}

/// A page of the jobs of a kind, the newest first.
pub async fn list(shell: &Shell, kind: Kind, list: JobList) -> Reply<Page<JobView>> {
    let filter = (kind, list.state);
    page(shell, &[kind], None, &filter, list).await
}

/// A page of the jobs of some kinds that are about a rule, the newest first.
pub async fn list_of_rule(shell: &Shell, kinds: &[Kind], rule_id: RuleId, list: JobList) -> Reply<Page<JobView>> {
    let filter = (rule_id, list.state);
    page(shell, kinds, Some(rule_id), &filter, list).await
}

/// The page that a cursor bound to `filter` leads to.
async fn page(
    shell: &Shell,
    kinds: &[Kind],
    rule_id: Option<RuleId>,
    filter: &impl Serialize,
    list: JobList,
) -> Reply<Page<JobView>> {
    let limit = limit_of(list.limit);
    let before = list.cursor.map(|cursor| cursor.key(filter)).transpose()?;
    let before = before.map(|key| key.parse::<JobId>().map_err(|_| bad_cursor())).transpose()?;
    let mut conn = shell.conn().await?;
    let rows = store::list_jobs(&mut conn, kinds, rule_id, list.state, before, limit + 1).await?;
    let rows = rows.iter().map(Job::show).collect();
    Ok(Answer::ok(Page::new(rows, limit, filter, |job: &JobView| job.job_id.to_string())).metered(conn.meter()))
}

/// One job.
pub async fn get(shell: &Shell, kind: Kind, job_id: JobId) -> Reply<JobView> {
    let mut conn = shell.conn().await?;
    let job = store::get_job(&mut conn, kind, job_id).await?;
    Ok(Answer::ok(job.show()).etag(ETag::version(job.version)).metered(conn.meter()))
}

/// Does what is asked with a job and gives it as it is then.
pub async fn act(app: &App, shell: &Shell, kind: Kind, job_id: JobId, act: Act) -> Reply<JobView> {
    let mut conn = shell.conn().await?;
    let job = store::update_state(&mut conn, kind, job_id, act, shell.clock.now()).await?;
    if job.state == State::Running {
        app.jobs.wake();
    }
    Ok(Answer::ok(job.show()).etag(ETag::version(job.version)).metered(conn.meter()))
}

/// The failures of a job: a page of JSON, or all of them as CSV for who accepts that.
pub async fn failures(
    shell: Data<Shell>,
    request: &HttpRequest,
    kind: Kind,
    job_id: JobId,
    list: FailureList,
) -> Result<HttpResponse, ApiError> {
    let limit = limit_of(list.limit);
    let after = list.cursor.map(|cursor| cursor.key(&job_id)).transpose()?;
    let after = after.map_or(Ok(0), |key| key.parse::<i64>().map_err(|_| bad_cursor()))?;
    let mut conn = shell.conn().await?;
    store::get_job(&mut conn, kind, job_id).await?;
    if wants_csv(request) {
        drop(conn);
        return Ok(file(shell.office.clone(), job_id, after));
    }
    let rows = store::list_failures(&mut conn, job_id, after, limit + 1).await?;
    let page = Page::new(rows, limit, &job_id, |failure: &Failure| failure.ordinal.to_string());
    Ok(Answer::ok(page).metered(conn.meter()).respond_to(request))
}

fn wants_csv(request: &HttpRequest) -> bool {
    let accepts = request.headers().get_all(header::ACCEPT).filter_map(|value| value.to_str().ok());
    accepts
        .flat_map(|value| value.split(','))
        .any(|one| one.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/csv")))
}

/// All failures as a file that is made while it is sent.
fn file(office: Office, job_id: JobId, after: i64) -> HttpResponse {
    let head = stream::iter([Ok(Bytes::from_static(b"row,line,column,code,detail\r\n"))]);
    let rows = stream::try_unfold(Some(after), move |after| {
        let office = office.clone();
        async move {
            let Some(after) = after else { return Ok::<_, JobError>(None) };
            let failures = store::list_failures(&mut *office.get().await?, job_id, after, FILE_ROWS).await?;
            let next = failures.last().map(|last| last.ordinal).filter(|_| failures.len() as i64 == FILE_ROWS);
            let text: String = failures.iter().map(as_line).collect();
            Ok(Some((Bytes::from(text), next)))
        }
    });
    HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8")
        .insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"failures-{job_id}.csv\"")))
        .streaming(futures_util::StreamExt::chain(head, rows))
}

fn as_line(failure: &Failure) -> String {
    let mut text = format!("{},{},", failure.ordinal, failure.line);
    line::quote(failure.column.as_deref().unwrap_or_default(), &mut text);
    text.push(',');
    line::quote(&failure.code, &mut text);
    text.push(',');
    line::quote(&failure.detail, &mut text);
    text.push_str("\r\n");
    text
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Refused(refusal) => refusal.into(),
            JobError::Database(error) => error.into(),
            JobError::Mint(_) | JobError::Numbers(_) | JobError::KeysChanged => Self::unavailable(error),
            JobError::Inconsistent { .. }
            | JobError::Damaged(_)
            | JobError::Panicked(_)
            | JobError::Id(_)
            | JobError::Write(_) => Self::internal(error),
        }
    }
}
