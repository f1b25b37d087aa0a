//! The wiring: settings, what handlers share, the list of routes, and the server itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::{HttpServiceFactory, Service};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Bytes, Data, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, ResponseError, guard};
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgConnection;

use super::extract::BodyLimit;
use super::gate::{Gate, InFlight};
use super::limit::{LimitSettings, Limits};
use super::problem::route_not_found;
use super::route::{Route, Routes};
use super::{openapi, ops};
use crate::chain::book::StoreBook;
use crate::chain::cache::KeyCache;
use crate::clock::{Clock, Zone};
use crate::db::pool::{self, Office, OfficeConn};
use crate::meter::Meter;
use crate::readiness::Readiness;

const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

/// Bounds and times of the HTTP side.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    pub workers: usize,
    /// Open connections in all; more wait in the listen queue.
    pub connections_max: usize,
    /// Body bytes, where a route does not say otherwise.
    pub body_bytes_max: usize,
    /// Bytes of a file, unpacked.
    pub upload_bytes_max: u64,
    /// For a request's head. actix answers 408 with an empty body.
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    /// For us, from the body's last byte at the latest to the answer: 503 when it is over.
    pub answer_timeout: Duration,
    pub keep_alive: Duration,
    /// On shutdown, for requests under way.
    pub shutdown_timeout: Duration,
    pub limits: LimitSettings,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8),
            connections_max: 25_000,
            body_bytes_max: 64 * 1024,
            upload_bytes_max: 4 << 30,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(15),
            keep_alive: Duration::from_secs(75),
            shutdown_timeout: Duration::from_secs(30),
            limits: LimitSettings::default(),
        }
    }
}

/// What the HTTP side shares among requests. Handlers of office tables need no more than this.
pub struct Shell {
    pub settings: HttpSettings,
    pub clock: Clock,
    pub zone: Zone,
    pub office: Office,
    pub keys: KeyCache,
    /// The stores that callers are bound to.
    pub stores: StoreBook,
    pub limits: Limits,
    pub readiness: Readiness,
    pub in_flight: Arc<InFlight>,
    /// `None` in tests that measure nothing.
    pub metrics: Option<PrometheusHandle>,
}

impl Shell {
    pub fn new(settings: HttpSettings, clock: Clock, zone: Zone, office: Office, readiness: Readiness) -> Self {
        Self {
            limits: Limits::new(&settings.limits),
            settings,
            clock,
            zone,
            stores: StoreBook::new(office.clone()),
            office,
            keys: KeyCache::default(),
            readiness,
            in_flight: Arc::default(),
            metrics: None,
        }
    }
}

impl Shell {
    /// A connection of the office that keeps the meter of the answer.
    ///
    /// # Errors
    /// `overloaded`, `unavailable`.
    pub async fn conn(&self) -> Result<MeteredConn, pool::Error> {
        let began = Instant::now();
        let conn = self.office.get().await?;
        Ok(MeteredConn { conn, queue: began.elapsed(), began: Instant::now(), statements: 0 })
    }
}

/// A connection that counts how often it was lent: a store function sends one statement each time.
pub struct MeteredConn {
    conn: OfficeConn,
    queue: Duration,
    began: Instant,
    statements: u32,
}

impl MeteredConn {
    /// What has been spent so far.
    pub fn meter(&self) -> Meter {
        let mut meter = Meter { statements: self.statements, ..Meter::office(self.began.elapsed()) };
        meter.add_queue(self.queue);
        meter
    }
}

impl Deref for MeteredConn {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.conn
    }
}

impl DerefMut for MeteredConn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.statements += 1;
        &mut self.conn
    }
}

/// All that is served, in the order of the document. Each domain adds its own here.
pub fn routes() -> Routes {
    [
        ops::routes(),
        crate::chain::region_http::routes(),
        crate::chain::http::routes(),
        crate::chain::register_http::routes(),
        crate::chain::system_http::routes(),
        crate::member::http::routes(),
        crate::member::batch_http::routes(),
        crate::member::reveal::http::routes(),
        crate::coupon::validate::http::routes(),
        crate::coupon::wallet::http::routes(),
        crate::member::log::http::routes(),
        crate::member::family::routes(),
        crate::member::binding::http::routes(),
        crate::member::erase::http::routes(),
        crate::member::export::http::routes(),
        crate::member::import::http::routes(),
        crate::coupon::rule_http::routes(),
        crate::coupon::http::routes(),
        crate::coupon::life_http::routes(),
        crate::coupon::issue_job::http::routes(),
        crate::coupon::import::http::routes(),
        crate::coupon::legacy_http::routes(),
        crate::coupon::offline::http::routes(),
        crate::coupon::totals::routes(),
        crate::coupon::list_http::routes(),
        crate::request::http::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Routes by path.
type Resources = BTreeMap<String, Vec<Arc<Route>>>;

/// What is the same for every worker: routes and their rendered document.
#[derive(Clone)]
pub struct Api {
    /// By [family](family_of) and path.
    families: Arc<BTreeMap<String, Resources>>,
    document: Bytes,
}

/// The first two parts of a path, such as `/v1/members`. actix tries a table of paths one after another, with a regular
/// expression for each that has parameters: beside a table of all of them, which cost more than everything else in a
/// cached answer, one of families is short and compares plain text.
fn family_of(path: &str) -> &str {
    let end = path.match_indices('/').nth(2).map_or(path.len(), |(at, _)| at);
    // A parameter is no plain text.
    &path[..path[..end].find("/{").unwrap_or(end)]
}

impl Api {
    pub fn new(routes: Routes) -> Self {
        let document = Bytes::from(openapi::document(&routes).to_string());
        let mut families: BTreeMap<String, Resources> = BTreeMap::new();
        for route in routes {
            let family = families.entry(family_of(&route.path).to_owned()).or_default();
            family.entry(route.path.clone()).or_default().push(Arc::new(route));
        }
        Self { families: Arc::new(families), document }
    }

    /// Adds every resource to an actix app. `shell` and whatever else handlers take go in as `Data`.
    pub fn configure(&self, config: &mut ServiceConfig, shell: &Data<Shell>) {
        config.app_data(shell.clone()).app_data(Data::new(ops::Document(self.document.clone())));
        for (family, resources) in self.families.iter() {
            let mut scope = web::scope(family);
            for (path, routes) in resources {
                scope = scope.service(resource(&path[family.len()..], routes, &shell.settings));
            }
            config.service(scope);
        }
        config.service(ops::docs());
        config.default_service(web::to(not_found));
    }
}

/// The routes of one path behind their gate. The path is what comes after its family's.
fn resource(path: &str, routes: &[Arc<Route>], settings: &HttpSettings) -> impl HttpServiceFactory + 'static {
    let bytes_max = routes.iter().filter_map(|route| route.body_bytes_max).max();
    let limit = BodyLimit { bytes_max: bytes_max.unwrap_or(settings.body_bytes_max), timeout: settings.body_timeout };
    let mut resource = web::resource(path).app_data(limit);
    for route in routes {
        let method = route.method.clone();
        resource = resource.route((route.handler)().guard(guard::fn_guard(move |context| {
            let asked = &context.head().method;
            *asked == method || (*asked == "HEAD" && method == "GET")
        })));
    }
    resource.wrap(Gate::new(routes))
}

async fn not_found(request: HttpRequest) -> HttpResponse {
    route_not_found(request.path()).error_response()
}

/// Serves until `shutdown` is ready, then takes no new connection, finishes the requests it has begun and returns.
/// `more` adds what the handlers of other domains take (`Data<…>`), in each worker.
///
/// # Errors
/// Those of the socket.
pub async fn serve(
    listener: TcpListener,
    tls: Option<rustls::ServerConfig>,
    shell: Arc<Shell>,
    more: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let settings = shell.settings.clone();
    let (api, data) = (Api::new(routes()), Data::from(Arc::clone(&shell)));
    let server = HttpServer::new(move || {
        let (api, data, more) = (api.clone(), data.clone(), more.clone());
        App::new().configure(more).configure(move |config| api.configure(config, &data)).wrap_fn(|request, service| {
            let answer = service.call(request);
            async move {
                let mut response = answer.await?;
                response.headers_mut().insert(NOSNIFF.0, NOSNIFF.1);
                Ok(response)
            }
        })
    })
    .workers(settings.workers)
    .max_connections(settings.connections_max.div_ceil(settings.workers.max(1)))
    .client_request_timeout(settings.head_timeout)
    .keep_alive(settings.keep_alive)
    .shutdown_timeout(settings.shutdown_timeout.as_secs())
    .disable_signals();
    let server = match tls {
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
        None => server.listen(listener)?,
    }
    .run();
    let handle = server.handle();
    let mut server = tokio::spawn(server);
    let upkeep = tokio::spawn(keep_metrics(Arc::clone(&shell)));
    let outcome = tokio::select! {
        ended = &mut server => ended,
        () = shutdown => {
            shell.readiness.set("shutdown", "the process is stopping");
            handle.stop(true).await;
            server.await
        }
    };
    upkeep.abort();
    outcome.map_err(std::io::Error::other)?
}

/// Histograms are buffered until somebody drains them; without this a process that nobody scrapes would grow.
async fn keep_metrics(shell: Arc<Shell>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        if let Some(metrics) = &shell.metrics {
            metrics.run_upkeep();
        }
    }
}
