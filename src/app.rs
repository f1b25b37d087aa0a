//! Everything that handlers, jobs and tests need, wired once: [`App`].
//!
//! `App::start` connects to a database that is migrated and has its leaves; it does not start servers of any kind.
//! `App::stop` finishes what was accepted.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use sqlx::{PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{
    cache::Bypass,
    chain::{book::StoreBook, system::SystemBook},
    clock::{Clock, Zone},
    config::Settings,
    coupon::{
        bulk::CouponWorks,
        desk::{Counters, Desk, DeskParts},
        import::CouponImport,
        issue_job::{IssueJob, undo::IssueUndo},
        rule_cache::RuleBook,
    },
    db::{
        lane::{Lane, Reader},
        pool::{self, Office},
    },
    event::{
        Kind,
        tail::{self, Forget},
    },
    id::{BlockError, Counter, LeaseError, MemberId, MemberIdMinter, NodeLease, RuleId, lease_block},
    job::runner::{Runner, RunnerParts},
    member::{cache::MemberBook, desk::MemberDesk, import::MemberImport, key::Region},
    readiness::Readiness,
    request::read::FindAnswer,
    secret::{self, Secrets, watch::Watch},
};

/// Numbers leased at a time: a block lost with its process is a gap.
const BLOCK: i64 = 4096;
const LEASE_RENEW_EVERY: Duration = Duration::from_secs(10);
const CLOCK_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Beyond this difference from the database's clock a node is not ready.
pub const CLOCK_OFF_MAX: Duration = Duration::from_millis(500);

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the database cannot be reached")]
    Database(#[from] pool::Error),
    #[error("no node number could be leased")]
    Lease(#[from] LeaseError),
    /// Personal data would be written that no rotation of keys reaches.
    #[error("{0}")]
    Columns(String),
}

/// One node of Tessera.
pub struct App {
    pub settings: Settings,
    pub clock: Clock,
    pub zone: Zone,
    /// Where phone numbers without a country code belong.
    pub region: Region,
    pub secrets: Arc<Secrets>,
    pub office: Office,
    pub lane: Lane,
    pub minter: Arc<MemberIdMinter>,
    pub stores: StoreBook,
    pub systems: SystemBook,
    pub desk: Desk,
    pub members: MemberDesk,
    pub jobs: Runner,
    pub answers: Reader<FindAnswer>,
    pub bypass: Bypass,
    pub readiness: Readiness,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What everything in a node stands on.
struct Ground {
    clock: Clock,
    zone: Zone,
    region: Region,
    secrets: Arc<Secrets>,
    office: Office,
    lane: Lane,
    minter: Arc<MemberIdMinter>,
}

impl App {
    /// Connects and starts the tasks of a node. `connect` is the service's role.
    ///
    /// # Errors
    /// [`StartError`] when the database cannot be reached or every node number is taken.
    pub async fn start(
        settings: Settings,
        connect: PgConnectOptions,
        secrets: Secrets,
        clock: Clock,
        holder: Uuid,
    ) -> Result<Arc<Self>, StartError> {
        secret::columns::check().map_err(StartError::Columns)?;
        let office = Office::new(connect.clone(), &settings.database.office());
        let lane = Lane::start(connect.clone(), settings.lane.lane());
        let lease = {
            let mut conn = office.get().await?;
            NodeLease::acquire(&mut conn, holder).await?
        };
        let ground = Ground {
            zone: Zone::new(settings.chain.zone),
            region: Region::parse(&settings.chain.phone_region).unwrap_or_default(),
            minter: Arc::new(MemberIdMinter::new(lease, clock.clone())),
            secrets: Arc::new(secrets),
            office,
            lane,
            clock,
        };
        let app = Arc::new(Self::wire(settings, ground, connect.clone()));
        app.begin_tasks(connect, holder).await;
        Ok(app)
    }

    fn wire(settings: Settings, ground: Ground, connect: PgConnectOptions) -> Self {
        let Ground { clock, zone, region, secrets, office, lane, minter } = ground;
        // No cache is used before the tail has seen the database.
        let bypass = Bypass::stale();
        let (stores, systems) = (StoreBook::new(office.clone()), SystemBook::new(office.clone()));
        let parts = DeskParts {
            clock: clock.clone(),
            zone,
            secrets: Arc::clone(&secrets),
            office: office.clone(),
            rules: RuleBook::new(&settings.cache, bypass.clone()),
            stores: stores.names.clone(),
            counters: counters(&office),
        };
        let desk = Desk::new(&lane, parts);
        let book = MemberBook::new(&lane, Arc::clone(&secrets), stores.names.clone(), &settings.cache, bypass.clone());
        let members = MemberDesk::new(
            &lane,
            clock.clone(),
            Arc::clone(&secrets),
            stores.names.clone(),
            Arc::clone(&minter),
            desk.events.clone(),
            book,
        );
        let member_import = MemberImport {
            office: office.clone(),
            clock: clock.clone(),
            zone,
            region,
            secrets: Arc::clone(&secrets),
            minter: Arc::clone(&minter),
            events: desk.events.clone(),
            stores: Default::default(),
            systems: systems.clone(),
        };
        let jobs = Runner::start(RunnerParts {
            office: office.clone(),
            connect,
            clock: clock.clone(),
            secrets: Arc::clone(&secrets),
            settings: settings.jobs.jobs(),
            member_import,
            coupons: CouponWorks {
                issue: IssueJob { desk: desk.clone(), region },
                undo: IssueUndo { desk: desk.clone() },
                import: CouponImport { desk: desk.clone(), region, stores: Default::default() },
            },
        });
        let (answers, readiness, tasks) = (lane.reader(FindAnswer), Readiness::default(), Mutex::default());
        Self {
            settings,
            clock,
            zone,
            region,
            secrets,
            office,
            lane,
            minter,
            stores,
            systems,
            desk,
            members,
            jobs,
            answers,
            bypass,
            readiness,
            tasks,
        }
    }

    /// What a node does by itself for as long as it runs.
    async fn begin_tasks(&self, connect: PgConnectOptions, holder: Uuid) {
        self.spawn(keep_lease(Arc::clone(&self.minter), self.office.clone(), holder, self.readiness.clone()));
        let (clock, pause) = (self.clock.clone(), self.settings.cache.tail_pause);
        self.spawn(tail::run(connect, clock, pause, self.bypass.clone(), forget(self)));
        let watch = Watch {
            secrets: Arc::clone(&self.secrets),
            minter: Arc::clone(&self.minter),
            lane: self.lane.clone(),
            office: self.office.clone(),
            every: self.settings.secrets.every(),
        };
        // Before anything is served: see `secret::watch`.
        self.spawn(watch.begin().await.go_on());
        self.spawn(keep_clock(self.clock.clone(), self.office.clone(), self.readiness.clone()));
    }

    /// Runs a task until the node stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().expect("no code panics while it holds the tasks").push(tokio::spawn(task));
    }

    /// Finishes what was accepted, gives the node number back and closes the connections.
    pub async fn stop(&self) {
        self.jobs.stop().await;
        self.lane.stop().await;
        for task in self.tasks.lock().expect("no code panics while it holds the tasks").drain(..) {
            task.abort();
        }
        let (lease, used_until_ms) = self.minter.stop();
        if let Ok(mut conn) = self.office.get().await
            && let Err(error) = lease.release(&mut conn, used_until_ms).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the node number lapses by itself");
        }
        self.office.close();
    }
}

/// What this node forgets when any node has changed something.
fn forget(app: &App) -> Forget {
    let (rules, members) = (app.desk.rules.clone(), app.members.book.clone());
    let (all_rules, all_members) = (rules.clone(), members.clone());
    Forget {
        one: Arc::new(move |event| {
            let (rules, members) = (rules.clone(), members.clone());
            async move {
                match event.kind {
                    Kind::MemberChanged => {
                        if let Ok(member_id) = MemberId::new(event.subject) {
                            members.forget(member_id).await;
                        }
                    }
                    // A rotation has taken out which one.
                    Kind::MemberKeyMoved if event.subject == 0 => members.forget_all(),
                    Kind::MemberKeyMoved => members.forget_key(event.subject).await,
                    Kind::RuleChanged => {
                        if let Ok(rule_id) = RuleId::new(event.subject) {
                            rules.forget(rule_id).await;
                        }
                    }
                    // Stores, external systems and API keys are kept for so short a time that they follow by themselves.
                    _ => {}
                }
            }
            .boxed()
        }),
        all: Arc::new(move || {
            all_rules.forget_all();
            all_members.forget_all();
        }),
    }
}

fn counters(office: &Office) -> Counters {
    Counters {
        serials: counter(office, "coupon_serial"),
        redemptions: counter(office, "redemption"),
        events: counter(office, "event"),
    }
}

fn counter(office: &Office, name: &'static str) -> Counter {
    let office = office.clone();
    Counter::new(
        BLOCK,
        Arc::new(move |n| {
            let office = office.clone();
            async move {
                let mut conn = office.get().await.map_err(|error| BlockError::NoConnection(Arc::new(error)))?;
                lease_block(&mut conn, name, n).await
            }
            .boxed()
        }),
    )
}

/// Renews the lease of the node number; takes another number when it was lost. Minting stops by itself meanwhile.
async fn keep_lease(minter: Arc<MemberIdMinter>, office: Office, holder: Uuid, readiness: Readiness) {
    const REASON: &str = "node_lease";
    loop {
        tokio::time::sleep(LEASE_RENEW_EVERY).await;
        let renewed = async {
            let mut conn = office.get().await?;
            match minter.lease().renew(&mut conn).await {
                Err(LeaseError::Lost { .. }) => Ok(NodeLease::acquire(&mut conn, holder).await?),
                other => Ok::<_, StartError>(other?),
            }
        };
        match renewed.await {
            Ok(lease) => {
                minter.set_lease(lease);
                readiness.clear(REASON);
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the lease of the node number was not renewed"
                );
                if !minter.lease().holds_at(Instant::now()) {
                    readiness.set(REASON, "the lease of the node number has lapsed: no new members or rules");
                }
            }
        }
    }
}

/// Compares the raw clock with the database's: a node that is off would judge validity wrongly.
async fn keep_clock(clock: Clock, office: Office, readiness: Readiness) {
    const REASON: &str = "clock";
    loop {
        let compared = async {
            let mut conn = office.get().await?;
            let asked = clock.raw_now();
            let there: chrono::DateTime<chrono::Utc> =
                sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *conn as &mut PgConnection).await?;
            let answered = clock.raw_now();
            // The database's reading lies between ours; what lies outside is the difference.
            let off = (there - answered).max(asked - there).max(chrono::TimeDelta::zero());
            Ok::<_, pool::Error>(off)
        };
        match compared.await {
            Ok(off) => {
                metrics::gauge!("tessera_clock_off_seconds").set(off.num_milliseconds() as f64 / 1000.0);
                if off.to_std().is_ok_and(|off| off > CLOCK_OFF_MAX) {
                    readiness.set(REASON, format!("the clock is {} ms off the database's", off.num_milliseconds()));
                } else {
                    readiness.clear(REASON);
                }
                readiness.clear("database");
            }
            Err(error) => readiness.set("database", error.to_string()),
        }
        tokio::time::sleep(CLOCK_CHECK_EVERY).await;
    }
}
