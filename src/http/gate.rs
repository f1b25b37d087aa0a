//! What every request passes before and after its handler: method, caller, role, rate, store, deadline; then cost and metrics.
//!
//! One gate stands before each resource and knows the resource's routes. It answers what never reaches a handler.

use std::any::Any;
use std::future::{Ready, ready};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::BoxBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError, web};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use utoipa::openapi::path::ParameterIn;

use super::app::Shell;
use super::caller::authenticate;
use super::meter::{RouteMeter, server_timing};
use super::problem::{self, ApiError};
use super::route::Route;
use crate::meter::Meter;
use crate::problem::{Code, Refusal};

/// For a file to come in, whatever its pace: longer than anybody waits.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The gate of one resource.
pub struct Gate(Rc<Posts>);

/// What a gate knows of its resource.
struct Posts {
    posts: Vec<Post>,
    /// The value of `Allow`.
    allow: String,
}

struct Post {
    route: Arc<Route>,
    takes_query: bool,
    takes_body: bool,
    meter: RouteMeter,
}

impl Gate {
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let posts: Vec<Post> = routes
            .iter()
            .map(|route| Post {
                takes_query: route.has_parameter(&ParameterIn::Query),
                takes_body: route.document.request_body.is_some(),
                meter: RouteMeter::new(&route.method, &route.path),
                route: Arc::clone(route),
            })
            .collect();
        Self(Rc::new(Posts { allow: allow(routes), posts }))
    }
}

/// The methods of a resource: its own, `HEAD` with `GET`, and `OPTIONS`.
fn allow(routes: &[Arc<Route>]) -> String {
    let mut methods: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods.sort_unstable();
    methods.join(", ")
}

impl Posts {
    fn find(&self, method: &Method) -> Option<&Post> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.posts.iter().find(|post| post.route.method == *method)
    }
}

impl<S> Transform<S, ServiceRequest> for Gate
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error> + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = Gated<S>;
    type InitError = ();
    type Future = Ready<Result<Gated<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Gated { posts: Rc::clone(&self.0), service: Rc::new(service) }))
    }
}

/// A resource with its gate.
pub struct Gated<S> {
    posts: Rc<Posts>,
    service: Rc<S>,
}

impl<S> Service<ServiceRequest> for Gated<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error> + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let (posts, service) = (Rc::clone(&self.posts), Rc::clone(&self.service));
        Box::pin(async move { Ok(pass(&posts, &*service, request).await) })
    }
}

async fn pass<S>(posts: &Posts, service: &S, request: ServiceRequest) -> ServiceResponse<BoxBody>
where
    S: Service<ServiceRequest, Response = ServiceResponse<BoxBody>, Error = Error>,
{
    let began = Instant::now();
    let Some(post) = posts.find(request.method()) else {
        let answer = if request.method() == Method::OPTIONS {
            HttpResponse::NoContent().insert_header((header::ALLOW, posts.allow.as_str())).finish()
        } else {
            problem::method_not_allowed(&posts.allow).error_response()
        };
        return request.into_response(answer);
    };
    let shell = Arc::clone(request.app_data::<web::Data<Shell>>().expect("configure sets the shell"));
    let _in_flight = shell.in_flight.enter();
    let mut response = match admit(&shell, post, &request).await {
        Err(error) => request.into_response(error.error_response()),
        Ok(()) => {
            let handle = request.request().clone();
            // The time that the sender takes for its body is not ours.
            let body_timeout = match post.takes_body {
                true if post.route.streams => UPLOAD_TIMEOUT,
                true => shell.settings.body_timeout,
                false => Duration::ZERO,
            };
            let call = AssertUnwindSafe(service.call(request)).catch_unwind();
            match tokio::time::timeout(shell.settings.answer_timeout + body_timeout, call).await {
                Ok(Ok(Ok(response))) => response,
                Ok(Ok(Err(error))) => ServiceResponse::new(handle, error.error_response()),
                Ok(Err(panic)) => ServiceResponse::new(handle, panicked(post, panic.as_ref()).error_response()),
                Err(_) => ServiceResponse::new(handle, too_slow(post).error_response()),
            }
        }
    };
    as_problem(&mut response);
    let meter = response.response().extensions().get::<Meter>().copied().unwrap_or_default();
    let total = began.elapsed();
    if let Ok(value) = HeaderValue::from_str(&server_timing(total, &meter)) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
    let status = response.status().as_u16();
    post.meter.record(status, total, &meter);
    tracing::debug!(operation = post.route.operation, status, total_us = total.as_micros() as u64, ?meter, "answered");
    response
}

/// The order of these checks is part of the API: caller, role, rate, the caller's store, then the query of endpoints that take none.
async fn admit(shell: &Shell, post: &Post, request: &ServiceRequest) -> Result<(), ApiError> {
    if let Some(roles) = post.route.roles {
        let peer = request.peer_addr().map(|address| address.ip());
        let caller = authenticate(shell, request.headers(), peer).await?;
        caller.must(roles)?;
        shell.limits.request(&caller)?;
        if let (Some(deed), Some((_, store_id))) = (post.route.at_store.deed(), &caller.store) {
            let today = shell.zone.day_of(shell.clock.now()).to_date();
            shell.stores.get(store_id).await?.may(deed, today)?;
        }
        request.extensions_mut().insert(caller);
    }
    if !post.takes_query && !request.query_string().is_empty() {
        return Err(Refusal::new(Code::MalformedQuery).detail("this endpoint takes no query").into());
    }
    Ok(())
}

/// A handler that panicked has told the panic hook where; what it shared is behind locks that say whether it is whole.
fn panicked(post: &Post, panic: &(dyn Any + Send)) -> ApiError {
    metrics::counter!("tessera_handler_panics_total").increment(1);
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ApiError::internal(format!("{} panicked: {}", post.route.operation, said.unwrap_or("no message")))
}

/// The handler is gone, but what it gave to the lane goes on: of a numbered write the outcome can be asked for.
fn too_slow(post: &Post) -> ApiError {
    metrics::counter!("tessera_answer_timeouts_total").increment(1);
    let code = if post.route.is_numbered() { Code::OutcomeUnknown } else { Code::Unavailable };
    Refusal::new(code).detail("the answer took too long").into()
}

/// actix's own errors become problems: none of them says more than its status.
fn as_problem(response: &mut ServiceResponse<BoxBody>) {
    let status = response.status();
    // What we say ourselves is JSON: a problem, or the report of /readyz.
    let is_ours = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == problem::CONTENT_TYPE || value == "application/json");
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return;
    }
    let error: ApiError = match status {
        StatusCode::NOT_FOUND => Code::RouteNotFound.into(),
        StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge.into(),
        StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout.into(),
        status if status.is_client_error() => Code::MalformedBody.into(),
        _ => ApiError::internal(format!("an endpoint answered {status} without a problem")),
    };
    *response.response_mut() = error.error_response();
}

/// Requests that are being answered.
#[derive(Default)]
pub struct InFlight(AtomicUsize);

impl InFlight {
    fn enter(self: &Arc<Self>) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(Arc::clone(self))
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Leaves when it is dropped, also when actix drops the request half-way.
struct Entered(Arc<InFlight>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
