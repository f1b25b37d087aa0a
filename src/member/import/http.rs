//! Imports of members over HTTP: send a file, look at it, start, pause, resume, cancel, fetch what failed.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{DateFormat, Encoding, MemberImport, OnTaken, Options, column::BadColumns};
use crate::{
    app::App,
    coupon::http::window,
    http::{ApiError, At, Caller, FileBody, Number, Page, Query, Reply, Routes, app::Shell, number::NumberText},
    id::JobId,
    job::{
        Act, Failure, Job, JobView, Kind,
        file::{CHUNK_BYTES, FileReader, ROW_BYTES_MAX},
        http::{self as jobs, FailureList, JobList, json},
        store::{NewJob, Uploaded},
        upload::{Upload, state_after},
    },
    member::Source,
    problem::{Code, Refusal},
    text_type,
};

const KIND: Kind = Kind::MemberImport;

text_type! {
    /// What people call the file; it is shown with the job, and is to name nobody.
    FileName: text 1..=120, "members-2026-11.csv";
    /// Names of columns, by comma.
    ColumnNames: text 1..=4000, "external:crm,attr.age,-";
}

pub fn routes() -> Routes {
    crate::routes! {
        create_member_import(stream): FileInvalid, JobStateForbidden, JobLimitReached;
        list_member_imports;
        get_member_import: JobNotFound;
        list_member_import_failures: JobNotFound;
        start_member_import: JobNotFound, JobStateForbidden;
        pause_member_import: JobNotFound, JobStateForbidden;
        resume_member_import: JobNotFound, JobStateForbidden;
        cancel_member_import: JobNotFound, JobStateForbidden;
    }
}

/// What stands between the fields of a row.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Delimiter {
    #[default]
    Comma,
    Semicolon,
    Tab,
    Bar,
}

impl Delimiter {
    const fn char(self) -> char {
        match self {
            Self::Comma => ',',
            Self::Semicolon => ';',
            Self::Tab => '\t',
            Self::Bar => '|',
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// False: the job waits for `start`, so that its preview can be looked at first. True if absent.
    start: Option<bool>,
    /// What becomes of a row whose identifiers all belong to one member that differs from it; `fail` if absent.
    #[param(inline)]
    on_taken: Option<OnTaken>,
    /// Where the members come from; `import` if absent.
    #[param(inline)]
    source: Option<Source>,
    /// The order of the parts of dates; `ymd` if absent.
    #[param(inline)]
    date_format: Option<DateFormat>,
    /// `utf-8` if absent.
    #[param(inline)]
    encoding: Option<Encoding>,
    /// `comma` if absent.
    #[param(inline)]
    delimiter: Option<Delimiter>,
    /// Names of the file's columns in their order, in place of those in its first line.
    #[param(inline)]
    columns: Option<ColumnNames>,
    /// False: the first line is a row; then `columns` is needed. True if absent.
    header: Option<bool>,
    #[param(inline)]
    file_name: Option<FileName>,
}

impl ImportQuery {
    fn options(&self) -> Result<Options, Refusal> {
        let columns = self.columns.as_ref().map(|names| names.as_str().split(',').map(|name| name.trim().to_owned()));
        let header = self.header.unwrap_or(true);
        if !header && columns.is_none() {
            return Err(Refusal::new(Code::MalformedQuery).detail("columns is needed where there is no header"));
        }
        Ok(Options {
            columns: columns.into_iter().flatten().collect(),
            header,
            delimiter: self.delimiter.unwrap_or_default().char(),
            encoding: self.encoding.unwrap_or_default(),
            date_format: self.date_format.unwrap_or_default(),
            on_taken: self.on_taken.unwrap_or_default(),
            source: self.source.unwrap_or(Source::Import),
        })
    }
}

/// Import members
///
/// The body is a CSV file, of which a row is a member. Its first line names the columns: `phone`, `email`, `username`,
/// `card`, `row_key`, `external:<system>`, `wechat:<app>`, `wechat_union`, `qq`, `weibo`, `tencent_weibo` (at least one of
/// these), `name`, `nickname`, `gender`, `birthday`, `store_id`, `level`, `state`, `created_at`, `attr.<name>` for custom
/// attributes, and `-` for what is passed over. A file with other columns is refused as `file_invalid` before it is taken
/// in. Rows that are wrong are named under `failures`, with line, column and code; the others come in. Empty fields, `null`
/// and their like, zeros as identifiers and 1900-01-01 are no values. A file that is sent twice doubles nothing: rows that
/// say nothing new of a member who has all their identifiers are skipped. Under the same `Idempotency-Key` the same file is
/// the same job. The file is kept encrypted for 7 days; the job, once it has ended, for 90 unless a setting says otherwise.
/// `too_many_requests` also says that as many files come in as may at once. Checked in this order: query, number, type of the
/// body, files at once, jobs that have not ended, columns, size.
#[utoipa::path(post, path = "/v1/member-imports", tag = "member imports",
    params(ImportQuery, ("Idempotency-Key" = inline(Option<NumberText>), Header, description = "The request's number")),
    request_body(content = String, content_type = "text/csv"),
    responses((status = 201, description = "The job", body = JobView, headers(("ETag" = String), ("Location" = String)))))]
async fn create_member_import(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    number: Number,
    mut body: FileBody,
) -> Reply<JobView> {
    let mut options = query.options()?;
    let numbers = jobs::numbers_if_given(&number, &caller, &window(&app, &shell))?;
    let new = NewJob {
        job_id: app.minter.mint_job().map_err(crate::job::JobError::from)?,
        kind: KIND,
        created_by: caller.scope(),
        file_name: query.file_name.map(FileName::into_string),
        options: json(&options),
    };
    let (import, starts) = (app.jobs.member_import(), query.start.unwrap_or(true));
    let take =
        async |upload: &mut Upload<'_>| take(&shell, import, &mut options, &mut body, upload, numbers, starts).await;
    jobs::create(&app, &shell, new, take, |job_id| format!("/v1/member-imports/{job_id}")).await
}

/// Takes the file in: first enough of it to see its columns, then the rest, then a look at its rows.
async fn take(
    shell: &Shell,
    import: &MemberImport,
    options: &mut Options,
    body: &mut FileBody,
    upload: &mut Upload<'_>,
    numbers: Vec<String>,
    starts: bool,
) -> Result<(Job, bool), ApiError> {
    let systems = import.systems.get().await?;
    let mut columns = None;
    loop {
        let piece = body.next().await?;
        if let Some(piece) = &piece {
            // The head must be looked at before it is gone with its piece.
            for part in piece.chunks(CHUNK_BYTES / 2) {
                if columns.is_none() && upload.head().is_some_and(|head| head.len() > ROW_BYTES_MAX) {
                    columns =
                        Some(import.columns(&systems, options, upload.head().unwrap_or_default()).map_err(refused)?);
                }
                upload.push(part, shell.clock.now()).await?;
            }
        } else {
            break;
        }
    }
    let columns = match columns {
        Some(columns) => columns,
        None => import.columns(&systems, options, upload.head().unwrap_or_default()).map_err(refused)?,
    };
    let (bytes, digest) = upload.finish(shell.clock.now()).await?;
    let mut file =
        FileReader::new(shell.office.clone(), std::sync::Arc::clone(&import.secrets), upload.new.job_id, bytes);
    let preview = import.preview(options, &columns, &mut file, bytes).await?;
    let uploaded =
        Uploaded { digest, numbers, options: json(options), preview: json(&preview), state: state_after(starts) };
    Ok(upload.end(&uploaded, shell.clock.now()).await?)
}

fn refused(bad: BadColumns) -> ApiError {
    let refusal = Refusal::new(Code::FileInvalid).detail(bad.to_string());
    match bad {
        BadColumns::Unknown(names) | BadColumns::Repeated(names) => refusal.with("columns", names),
        _ => refusal,
    }
    .into()
}

/// List imports of members
///
/// The newest first.
#[utoipa::path(get, path = "/v1/member-imports", tag = "member imports", params(JobList),
    responses((status = 200, description = "A page of jobs", body = Page<JobView>)))]
async fn list_member_imports(shell: Data<Shell>, Query(list): Query<JobList>) -> Reply<Page<JobView>> {
    jobs::list(&shell, KIND, list).await
}

/// Get an import of members
///
/// How far it came.
#[utoipa::path(get, path = "/v1/member-imports/{job_id}", tag = "member imports", params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn get_member_import(shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::get(&shell, KIND, job_id).await
}

/// List the rows of an import that failed
///
/// By line, column and code, in the order of the file; nothing of what stood in them. With `Accept: text/csv` all of them
/// as a file, from the cursor on.
///
/// | code | what is wrong |
/// |---|---|
/// | `row_too_long` | the line has more bytes than a row may have |
/// | `row_malformed` | it is not CSV, or has more or fewer fields than there are columns |
/// | `encoding_invalid` | a field is not text in the file's encoding |
/// | `identifier_invalid` | an identifier is not of its kind |
/// | `identifier_missing` | there is none |
/// | `date_invalid` | a day is none, or is outside its range |
/// | `value_invalid` | another field has a value that it may not have |
/// | `store_not_found` | there is no such store |
/// | `member_key_taken` | an identifier belongs to another member, or to this one, which differs |
///
/// A line break within quotes belongs to its field (RFC 4180); `line` is the one on which a row begins.
/// The first 100,000 failures of a job are kept; the job then says `failures_cut`, and its `rows_failed` counts all.
#[utoipa::path(get, path = "/v1/member-imports/{job_id}/failures", tag = "member imports",
    params(("job_id" = JobId, Path), FailureList),
    responses((status = 200, description = "A page of failures, or all of them", content(
        (Page<Failure> = "application/json"),
        (String = "text/csv"),
    ))))]
async fn list_member_import_failures(
    shell: Data<Shell>,
    request: HttpRequest,
    At(job_id): At<JobId>,
    Query(list): Query<FailureList>,
) -> Result<HttpResponse, ApiError> {
    jobs::failures(shell, &request, KIND, job_id, list).await
}

/// Start an import of members
///
/// One that was sent with `start=false`. One that runs stays as it is.
#[utoipa::path(post, path = "/v1/member-imports/{job_id}/start", tag = "member imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn start_member_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Start).await
}

/// Pause an import of members
///
/// After the rows under way, within a second or so. One that is paused stays as it is.
#[utoipa::path(post, path = "/v1/member-imports/{job_id}/pause", tag = "member imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn pause_member_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Pause).await
}

/// Resume an import of members
///
/// It goes on where it stood. One that runs stays as it is. One that failed with `gave_up` is taken up again, too.
#[utoipa::path(post, path = "/v1/member-imports/{job_id}/resume", tag = "member imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn resume_member_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Resume).await
}

/// Cancel an import of members
///
/// For good; what was imported stays. One that is cancelled stays as it is.
#[utoipa::path(post, path = "/v1/member-imports/{job_id}/cancel", tag = "member imports",
    params(("job_id" = JobId, Path)),
    responses((status = 200, description = "The job", body = JobView, headers(("ETag" = String)))))]
async fn cancel_member_import(app: Data<App>, shell: Data<Shell>, At(job_id): At<JobId>) -> Reply<JobView> {
    jobs::act(&app, &shell, KIND, job_id, Act::Cancel).await
}
