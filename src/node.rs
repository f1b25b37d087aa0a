//! A node that serves: an `App`, its HTTP server, and the tasks beside them.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::web::{Data, ServiceConfig};
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use crate::{
    app::{App, StartError},
    chain,
    clock::{Clock, Zone},
    config::Settings,
    descriptors,
    http::{
        app::{self as http_app, HttpSettings, Shell},
        limit::{LimitSettings, Rate},
        meter, tls,
    },
    partition::{DdlError, Locked, Plans, Retain, expire::Pace, upkeep},
    secret::Secrets,
};

/// Leaves are looked after this often; the work is idempotent and one process at a time does it.
const UPKEEP_EVERY: Duration = Duration::from_secs(3600);
const UPKEEP_RETRY: Duration = Duration::from_secs(60);
const UPKEEP_PATIENCE: Duration = Duration::from_secs(30);

/// Why a node does not serve, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the node cannot start")]
    Start(#[from] StartError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("metrics cannot be kept: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("the HTTP server failed")]
    Http(#[from] std::io::Error),
    #[error(
        "request numbers are accepted {back} days back, and their table keeps {kept}: choose fewer, or keep it longer, as \
         with --retain request=none"
    )]
    Window { back: u16, kept: Retain },
}

/// What a node is started with.
pub struct NodeArgs {
    pub settings: Settings,
    /// As the service's role.
    pub service: PgConnectOptions,
    /// As the role that owns the tables; without it, this node leaves the partitions to others.
    pub owner: Option<PgConnectOptions>,
    pub secrets: Secrets,
    pub clock: Clock,
    /// Names this process to the lease of node numbers.
    pub holder: Uuid,
}

/// Serves until `stop` is ready; then finishes what was accepted.
///
/// # Errors
/// [`NodeError`].
pub async fn serve(args: NodeArgs, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    let NodeArgs { settings, service, owner, secrets, clock, holder } = args;
    let tls = match (&settings.server.tls_cert, &settings.server.tls_key) {
        (Some(cert), Some(key)) => Some(tls::config(cert, key)?),
        _ => None,
    };
    let plans = settings.partitions.plans();
    check_window(&settings, plans)?;
    let metrics = meter::install()?;
    let app = App::start(settings, service, secrets, clock, holder).await?;
    if let Some(owner) = owner {
        let pace = Pace::of_window(app.settings.chain.request_days_back);
        app.spawn(keep_partitions(owner, plans, app.clock.clone(), app.zone, pace));
    }
    app.spawn(observe(Arc::clone(&app)));
    let mut shell = Shell::new(
        http_settings(&app.settings),
        app.clock.clone(),
        app.zone,
        app.office.clone(),
        app.readiness.clone(),
    );
    shell.metrics = Some(metrics);
    shell.stores = app.stores.clone();
    let shell = Arc::new(shell);
    app.spawn(chain::cache::watch(shell.keys.clone(), app.office.clone(), app.clock.clone()));
    let data = Data::from(Arc::clone(&app));
    let more = move |config: &mut ServiceConfig| {
        config.app_data(data.clone());
    };
    let served = http_app::serve(listener, tls, shell, more, stop).await;
    app.stop().await;
    Ok(served?)
}

/// A number whose leaf is gone could be used twice.
fn check_window(settings: &Settings, plans: &Plans) -> Result<(), NodeError> {
    let back = settings.chain.request_days_back;
    let kept = plans.get("request").and_then(|plan| plan.range()).and_then(|range| range.retain);
    match kept {
        // The day itself, and the one that another time zone is in.
        Some(Retain::Days(days)) if days < u32::from(back) + 2 => {
            Err(NodeError::Window { back, kept: Retain::Days(days) })
        }
        Some(Retain::Months(months)) if months * 28 < u32::from(back) + 2 => {
            Err(NodeError::Window { back, kept: Retain::Months(months) })
        }
        _ => Ok(()),
    }
}

/// Most that this node has open to the database, in round numbers.
fn database_connections(settings: &Settings) -> usize {
    let (lane, office) = (&settings.lane, settings.database.office_connections);
    let readers = lane.lane_readers.max(lane.lane_readers_max);
    [readers, lane.lane_writers, office, settings.jobs.jobs_at_once, 16].into_iter().map(usize::from).sum()
}

fn http_settings(settings: &Settings) -> HttpSettings {
    let (server, limits) = (&settings.server, &settings.limits);
    let per_minute = |per_minute: u32| Rate { per_minute, burst: per_minute };
    HttpSettings {
        workers: server.workers(),
        connections_max: descriptors::room_for(server.connections_max, database_connections(settings)),
        body_bytes_max: server.body_bytes_max,
        upload_bytes_max: settings.jobs.upload_bytes_max,
        head_timeout: server.head_timeout,
        body_timeout: server.body_timeout,
        answer_timeout: server.answer_timeout,
        keep_alive: server.keep_alive,
        shutdown_timeout: server.shutdown_timeout,
        limits: LimitSettings {
            requests: Rate { per_minute: limits.rate_per_second.saturating_mul(60), burst: limits.rate_burst },
            auth_failures: per_minute(limits.bad_keys_per_minute),
            bad_codes: per_minute(limits.bad_codes_per_minute),
            reveals: per_minute(limits.reveals_per_minute),
            ..LimitSettings::default()
        },
    }
}

/// Makes leaves ahead, gathers statistics, freezes and expires.
async fn keep_partitions(owner: PgConnectOptions, plans: &'static Plans, clock: Clock, zone: Zone, pace: Pace) {
    loop {
        let now = clock.now();
        let ask = upkeep::Ask { today: zone.day_of(now).to_date(), now, past: None, leaves_only: false, pace };
        let kept = async {
            let mut db = Locked::open(&owner, plans, UPKEEP_PATIENCE).await?;
            let report = upkeep::run(&mut db, plans, &ask).await;
            db.close().await?;
            report
        };
        let pause = match kept.await {
            Ok(report) => {
                for ahead in &report.ahead {
                    if let Some(leaves) = ahead.leaves {
                        metrics::gauge!("tessera_partitions_ahead", "table" => ahead.table.clone()).set(leaves);
                    }
                    if !ahead.enough {
                        tracing::error!(table = ahead.table, "partitions are missing ahead: writes will fail");
                    }
                }
                UPKEEP_EVERY
            }
            // Another process is at it: it does the same work.
            Err(DdlError::Busy) => UPKEEP_RETRY,
            Err(error) => {
                metrics::counter!("tessera_upkeep_failures_total").increment(1);
                tracing::error!(error = &error as &dyn std::error::Error, "the partitions could not be looked after");
                UPKEEP_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Sizes that change without a request.
async fn observe(app: Arc<App>) {
    loop {
        let (reads, writes) = app.lane.waiting();
        metrics::gauge!("tessera_lane_waiting", "queue" => "read").set(reads as f64);
        metrics::gauge!("tessera_lane_waiting", "queue" => "write").set(writes as f64);
        let (connections, waiting) = app.office.load();
        metrics::gauge!("tessera_office_connections").set(connections as f64);
        metrics::gauge!("tessera_office_waiting").set(waiting as f64);
        metrics::gauge!("tessera_cache_bypassed").set(u8::from(app.bypass.is_set()));
        crate::telemetry::observe_process();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
