//! A database with coupons in it, twice: partitioned, and in flat tables beside.
//!
//! The flat tables of schema `flat` have the columns, constraints, indexes and fill factor of the leaves, and the same
//! rows.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use rand::{SeedableRng, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use tessera::{
    app::App,
    chain::{
        NewStore, StoreId, StoreName,
        key::{KeyName, NewToken, Role, insert_key},
        store::insert_store,
    },
    clock::{Clock, Zone},
    config::Settings,
    coupon::desk::Till,
    db::{embedded::SUPERUSER, migrate::role},
    id::{CodeId, Day, MemberId, RuleId, StoreNo},
    member::key::{Identifier, Kind, normalise},
    node::{self, NodeArgs},
    secret::{SecretFile, Secrets},
};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::{built::Built, cluster::Cluster, fill, machine};

/// Of rules that coupons are spread over, and the rush over all of them.
pub const RULES: i64 = 1_000;
/// Odd, so that it permutes the serials: neighbours of the file are not neighbours of the key.
pub(super) const SPREAD: i64 = 1_000_003;
pub(super) const SERIALS: i64 = 1 << 41;
/// Prime, so that it permutes the coupons: neighbours in the order of use are not neighbours of the key.
const SHUFFLE: i64 = 7_368_787;
const SEED: u64 = 9;

/// Leaked, since the tasks of benches borrow it.
pub struct Stage {
    pub runtime: &'static Runtime,
    pub cluster: &'static Cluster,
    pub database: String,
    /// Coupons in partitions.
    pub rows: i64,
    /// Coupons in flat tables; the same, but for a built dataset.
    pub flat_rows: i64,
    /// Days up to today on which those were issued that are made by formula.
    pub days: i64,
    pub today: Day,
    /// What the partitions hold, if it is not the same as the flat tables.
    pub built: Option<Built>,
    /// Coupons that were redeemed, of those in the partitions and of those in flat tables.
    used: AtomicI64,
    used_flat: AtomicI64,
}

impl Stage {
    /// A database of so many coupons that were issued over so many days.
    pub fn new(
        runtime: &'static Runtime,
        cluster: &'static Cluster,
        database: &str,
        rows: i64,
        days: i64,
    ) -> &'static Self {
        let stage = Self::bare(runtime, cluster, database, rows, days, None);
        runtime.block_on(fill::fill(&stage));
        Box::leak(Box::new(stage))
    }

    /// A built dataset, with flat tables of so many rows at most, which are made if they are not there.
    pub fn of_built(
        runtime: &'static Runtime,
        cluster: &'static Cluster,
        built: Built,
        flat_rows: i64,
        days: i64,
    ) -> &'static Self {
        let rows = built.dataset.shape.coupons as i64;
        let mut stage = Self::bare(runtime, cluster, "tessera", rows, days, Some(built));
        let (flat_rows, used) = runtime.block_on(fill::beside(&stage, flat_rows.min(rows)));
        (stage.flat_rows, stage.used) = (flat_rows, AtomicI64::new(used));
        Box::leak(Box::new(stage))
    }

    /// Of a built dataset: which of its coupons are redeemed stands in the database, for the next run.
    pub fn remember(&self) {
        self.runtime.block_on(fill::remember(self, self.flat_rows, self.taken().0));
    }

    /// How many redemptions are a fair round, so that all rounds of all benches find coupons enough. Of a built dataset a
    /// till may redeem few: most are used or have expired.
    pub fn share(&self) -> usize {
        let parts = if self.built.is_some() { 20_000 } else { 2_000 };
        (self.rows as usize / parts).clamp(3, 500)
    }

    fn bare(
        runtime: &'static Runtime,
        cluster: &'static Cluster,
        database: &str,
        rows: i64,
        days: i64,
        built: Option<Built>,
    ) -> Self {
        Self {
            runtime,
            cluster,
            database: database.to_owned(),
            rows,
            flat_rows: rows,
            days,
            today: Zone::DEFAULT.day_of(Clock::system().now()),
            built,
            used: AtomicI64::new(0),
            used_flat: AtomicI64::new(0),
        }
    }

    /// How to reach it as a role, for clients that are not ours.
    pub fn url(&self, role: &str) -> String {
        self.cluster.url(role, &self.database)
    }

    pub fn options(&self, role: &str) -> PgConnectOptions {
        self.url(role).parse().expect("it is a database's URL")
    }

    /// The settings of the lane's connections.
    pub fn settings() -> [(&'static str, &'static str); 7] {
        [
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
            ("lock_timeout", "500"),
            ("statement_timeout", "5000"),
        ]
    }

    /// Connections of a reference, with the lane's settings.
    pub fn connect(&self, connections: usize) -> Vec<PgConnection> {
        let options = self.options(SUPERUSER).statement_cache_capacity(512).options(Self::settings());
        self.runtime.block_on(async {
            let mut open = Vec::with_capacity(connections);
            for _ in 0..connections {
                open.push(PgConnection::connect_with(&options).await.expect("a connection"));
            }
            open
        })
    }

    /// A connection without the lane's settings.
    pub fn admin(&self) -> PgConnection {
        self.runtime.block_on(PgConnection::connect_with(&self.options(SUPERUSER))).expect("a connection")
    }

    /// The `i`th coupon, from 1 to `rows`, with its holder and its rule.
    pub fn coupon(&self, i: i64) -> (CodeId, MemberId, RuleId) {
        match &self.built {
            Some(built) => built.coupon(i),
            None => self.flat_coupon(i),
        }
    }

    /// The same of those in flat tables.
    pub fn flat_coupon(&self, i: i64) -> (CodeId, MemberId, RuleId) {
        let day = Day::from_number(self.today.number() - (i % self.days) as i32).expect("a day of this century");
        let code_id = CodeId::from_parts(day, i * SPREAD % SERIALS).expect("it fits");
        let member_id = MemberId::new((i % self.flat_members() + 1) << 22).expect("not negative");
        (code_id, member_id, RuleId::new(i % RULES + 1).expect("not negative"))
    }

    /// Members, from 1.
    pub fn members(&self) -> i64 {
        self.built.as_ref().map_or_else(|| self.flat_members(), |built| built.dataset.shape.members as i64)
    }

    pub fn flat_members(&self) -> i64 {
        (self.flat_rows / 4).max(1)
    }

    pub fn member(&self, m: i64) -> MemberId {
        match &self.built {
            Some(built) => built.dataset.member_id(m as u64 - 1),
            None => MemberId::new(m << 22).expect("not negative"),
        }
    }

    /// What the `m`th member says at a till.
    pub fn phone(&self, m: i64) -> Identifier {
        if let Some(built) = &self.built {
            return built.phone(m);
        }
        let phone = normalise(Kind::Phone, &format!("138{m:08}")).expect("a phone number");
        phone.expect("it is not empty")
    }

    /// One of the rules, counted from 0 and on from the first again.
    pub fn rule(&self, k: i64) -> RuleId {
        match &self.built {
            Some(built) => built.dataset.rules[k as usize % built.dataset.rules.len()].rule_id,
            None => RuleId::new(k % RULES + 1).expect("not negative"),
        }
    }

    /// Where the tables are that stand beside the same rows: flat ones, or the parents where those hold other rows.
    pub fn beside(&self) -> &'static str {
        if self.built.is_some() { "public" } else { "flat" }
    }

    /// The number of a redemption, and its coupon, each once.
    pub fn take(&self) -> (i64, CodeId) {
        loop {
            let number = self.used.fetch_add(1, Ordering::Relaxed);
            assert!(number < self.rows, "every coupon was redeemed: more rows are needed");
            let coupon = match &self.built {
                Some(built) => built.usable(number),
                None => Some(self.coupon(number * SHUFFLE % self.rows + 1).0),
            };
            if let Some(code_id) = coupon {
                return (number, code_id);
            }
        }
    }

    /// So many of those in flat tables: the number of the first.
    pub fn take_flat(&self, count: i64) -> i64 {
        let first = self.used_flat.fetch_add(count, Ordering::Relaxed);
        assert!(first + count <= self.flat_rows, "every coupon was redeemed: raise TESSERA_BENCH_ROWS");
        first
    }

    /// Coupons redeemed so far, in partitions and in flat tables.
    pub fn taken(&self) -> (i64, i64) {
        (self.used.load(Ordering::Relaxed), self.used_flat.load(Ordering::Relaxed))
    }

    /// Which coupon the `:n`th redemption is of, as an expression of pgbench.
    pub fn nth_expression(&self) -> String {
        format!("(:n * {SHUFFLE}) % {} + 1", self.flat_rows)
    }

    /// Code, member and rule of coupon `:i` as expressions of pgbench.
    pub fn expressions(&self) -> [String; 3] {
        [
            format!("(({} - (:i % {})) << 41) | ((:i * {SPREAD}) % {SERIALS})", self.today.number(), self.days),
            format!("((:i % {}) + 1) << 22", self.flat_members()),
            format!("(:i % {RULES}) + 1"),
        ]
    }

    /// One number out of SQL.
    pub fn count(&self, sql: &str) -> i64 {
        let mut conn = self.admin();
        self.runtime
            .block_on(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn))
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Whether memory holds all of it.
    pub fn is_resident(&self) -> bool {
        let bytes = self.count("select pg_database_size(current_database())");
        (bytes as u64) < machine::memory_kib() * 1024 / 10 * 8
    }

    /// Those that the rows were made with.
    pub fn secrets(&self) -> Secrets {
        match &self.built {
            Some(built) => Self::ready(&built.secrets),
            None => Self::ready(&SecretFile::generate(&mut StdRng::seed_from_u64(SEED))),
        }
    }

    pub fn ready(file: &SecretFile) -> Secrets {
        Secrets::new(file, StdRng::from_os_rng())
    }

    /// A node without a server.
    pub fn app(&self, settings: Settings) -> Arc<App> {
        let start = App::start(settings, self.options(role::SERVICE), self.secrets(), Clock::system(), Uuid::new_v4());
        self.runtime.block_on(start).expect("a node")
    }

    /// A node that serves HTTP until the process ends.
    pub fn serve(&self, settings: Settings) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let place = listener.local_addr().expect("it is bound");
        let args = NodeArgs {
            settings,
            service: self.options(role::SERVICE),
            owner: None,
            secrets: self.secrets(),
            clock: Clock::system(),
            holder: Uuid::new_v4(),
        };
        self.runtime.spawn(async move {
            node::serve(args, listener, std::future::pending()).await.expect("it serves");
        });
        place
    }

    /// The first store.
    pub fn store_id(&self) -> &'static str {
        if self.built.is_some() { "S00001" } else { "S0001" }
    }

    /// A key of a till of the first store, which this makes if it is not there.
    pub fn token(&self) -> String {
        self.runtime.block_on(async {
            let mut conn = PgConnection::connect_with(&self.options(role::SERVICE)).await.expect("a connection");
            let now = Clock::system().now();
            let store_id = StoreId::parse(self.store_id()).expect("an id");
            let name = StoreName::parse("Store".to_owned()).expect("a name");
            // The second caller finds it there.
            let _ = insert_store(&mut conn, &NewStore::new(store_id.clone(), name), now).await;
            let seed = Uuid::new_v4().as_u128() as u64;
            let token = NewToken::mint(&mut StdRng::seed_from_u64(seed));
            let name = KeyName::parse(format!("bench-{seed}")).expect("a name");
            insert_key(&mut conn, &name, Role::Pos, Some(&store_id), &token, now).await.expect("a key");
            token.reveal()
        })
    }

    /// A till of the first store.
    pub fn till(&self) -> Till {
        Till {
            store_no: StoreNo::new(1),
            store_id: Arc::from(self.store_id()),
            register: Some("2".to_owned()),
            sequence: None,
            business_day: self.today,
            regions: Arc::from([]),
        }
    }
}

/// The defaults, but that one caller may ask as much as it can.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    (settings.limits.rate_per_second, settings.limits.rate_burst) = (0, 1_000_000);
    settings
}

/// The key of the `n`th request.
pub fn request_key(n: i64) -> Uuid {
    Uuid::from_u64_pair((n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15), n as u64)
}
