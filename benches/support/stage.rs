//! A durable PostgreSQL of the bench's own with coupons in it, twice: partitioned, and in flat tables beside.
//!
//! The flat tables of schema `flat` have the columns, constraints, indexes and fill factor of the leaves, and the same
//! rows. The cluster is made as `tessera serve` makes it, fsync on, and is gone when the bench ends.

use std::{path::PathBuf, sync::Mutex, time::Duration};

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use tessera::{
    boot,
    clock::{Clock, Zone},
    db::{
        embedded::{Embedded, EmbeddedSettings, Reach, SUPERUSER},
        migrate::{self, role},
    },
    id::{CodeId, Day, MemberId},
    partition::{Locked, plans, upkeep},
};
use tokio::runtime::Runtime;

use super::report::is_quick;

const DATABASE: &str = "tessera_bench";
/// Of the directory in the temporary one; the process's number follows.
const DIR_PREFIX: &str = "tessera-bench-";
const PATIENCE: Duration = Duration::from_secs(30);
const TABLES: [&str; 7] = ["coupon", "coupon_receive", "coupon_index", "member", "redemption", "request", "event"];
/// Coupons are spread over so many rules and over a quarter as many members as there are coupons.
pub const RULES: i64 = 100;
/// Odd, so that it permutes the serials: neighbours of the file are not neighbours of the key.
const SPREAD: i64 = 1_000_003;
const SERIALS: i64 = 1 << 41;

/// The lane as a service has it that was given no settings.
pub fn lane_settings() -> tessera::db::lane::LaneSettings {
    tessera::config::Settings::default().lane.lane()
}

/// Removes what benches left behind that were killed: their servers are gone with them.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(DIR_PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Leaked by each bench, since its tasks borrow it; so it is ended by name.
pub struct Stage {
    pub runtime: Runtime,
    /// Coupons.
    pub rows: i64,
    /// Days up to today on which they were issued.
    pub days: i64,
    pub today: Day,
    embedded: Mutex<Option<Embedded>>,
    reach: Reach,
    programs: PathBuf,
    dir: PathBuf,
}

impl Stage {
    /// Starts PostgreSQL and fills it with `TESSERA_BENCH_ROWS` coupons, 200,000 by default, issued over `days`.
    pub fn new(days: i64) -> Self {
        let default = if is_quick() { 50_000 } else { 200_000 };
        let rows = std::env::var("TESSERA_BENCH_ROWS").map_or(default, |rows| rows.parse().expect("a number of rows"));
        let runtime = Runtime::new().expect("a runtime");
        sweep();
        let dir = std::env::temp_dir().join(format!("{DIR_PREFIX}{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the database");
        let settings = EmbeddedSettings { shared_buffers_mib: Some(1024), ..EmbeddedSettings::new(dir.join("data")) };
        let embedded = Embedded::start_blocking(&settings).unwrap_or_else(|error| panic!("{error}"));
        let today = Zone::DEFAULT.day_of(Clock::system().now());
        let stage = Self {
            runtime,
            rows,
            days,
            today,
            dir,
            reach: embedded.reach().clone(),
            programs: embedded.bin_dir().to_owned(),
            embedded: Mutex::new(Some(embedded)),
        };
        stage.runtime.block_on(stage.fill());
        stage
    }

    pub fn service(&self) -> PgConnectOptions {
        self.options(role::SERVICE)
    }

    fn options(&self, role: &str) -> PgConnectOptions {
        self.reach.options(role, DATABASE)
    }

    /// Directory of the socket and of the server's programs.
    pub fn places(&self) -> (PathBuf, PathBuf) {
        (self.reach.socket_dir.clone(), self.programs.clone())
    }

    /// Stops the server and removes its files.
    pub fn end(&self) {
        let embedded = self.embedded.lock().expect("nobody panics while holding it").take();
        drop(embedded);
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    /// The settings of the lane's connections.
    pub fn settings() -> [(&'static str, &'static str); 7] {
        [
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
            ("lock_timeout", "2000"),
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

    /// The `i`th coupon, from 1 to `rows`, with its holder and its rule.
    pub fn coupon(&self, i: i64) -> (CodeId, MemberId, i64) {
        let day = Day::from_number(self.today.number() - (i % self.days) as i32).expect("a day of this century");
        let code_id = CodeId::from_parts(day, i * SPREAD % SERIALS).expect("it fits");
        (code_id, MemberId::new((i % self.members() + 1) << 22).expect("not negative"), i % RULES + 1)
    }

    fn members(&self) -> i64 {
        (self.rows / 4).max(1)
    }

    /// The code of coupon `:i` as an expression of pgbench.
    pub fn code_expression(&self) -> String {
        format!("(({} - (:i % {})) << 41) | ((:i * {SPREAD}) % {SERIALS})", self.today.number(), self.days)
    }

    /// One number out of SQL.
    pub fn count(&self, sql: &str) -> i64 {
        let mut conn = self.connect(1).remove(0);
        self.runtime
            .block_on(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn))
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn fill(&self) {
        let mut conn = migrate::connect(&self.reach.options(SUPERUSER, "postgres"), PATIENCE).await.expect("a server");
        migrate::bootstrap(&mut conn, DATABASE).await.expect("roles and a database");
        migrate::close(conn).await;
        let owner = self.options(role::OWNER);
        let now = Clock::system().now();
        boot::migrate_and_upkeep(&owner, PATIENCE, now, Zone::DEFAULT).await.expect("a schema");
        let first = Day::from_number(self.today.number() - self.days as i32).expect("a day of this century");
        let ask = upkeep::Ask {
            today: self.today.to_date(),
            now,
            past: Some(upkeep::Past { from: first.to_date(), until: None, tables: Vec::new() }),
            leaves_only: true,
            pace: Default::default(),
        };
        let mut locked = Locked::open(&owner, plans(), PATIENCE).await.expect("the lock of the upkeep");
        upkeep::run(&mut locked, plans(), &ask).await.expect("leaves");
        locked.close().await.expect("the lock is given back");

        let mut conn = PgConnection::connect_with(&self.options(SUPERUSER)).await.expect("a connection");
        let sql = self.rows_sql();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.expect("rows");
        let mut flat = "create schema flat;".to_owned();
        for table in TABLES {
            let storage: Option<String> = sqlx::query_scalar(
                "select array_to_string(c.reloptions, ', ') from pg_inherits i \
                 join pg_class c on c.oid = i.inhrelid where i.inhparent = $1::regclass limit 1",
            )
            .bind(table)
            .fetch_one(&mut conn)
            .await
            .expect("a leaf");
            let storage = storage.expect("each plan has a fill factor");
            flat += &format!(
                "create table flat.{table} (like public.{table} including all) with ({storage}); \
                 insert into flat.{table} select * from public.{table};"
            );
        }
        sqlx::raw_sql(AssertSqlSafe(flat)).execute(&mut conn).await.expect("flat tables");
        for statement in ["vacuum (analyze)", "checkpoint"] {
            sqlx::raw_sql(statement).execute(&mut conn).await.expect("a settled database");
        }
    }

    fn rows_sql(&self) -> String {
        let (rows, members, today, days) = (self.rows, self.members(), self.today.number(), self.days);
        format!(
            "insert into coupon_rule (rule_id, created_at, updated_at, version, state) \
             select r, now(), now(), 1, 2 from generate_series(1, {RULES}) r; \
             insert into coupon_rule_version \
                 (rule_id, created_at, amount, threshold, version, days_after_issue, discount, currency, name) \
             select r, now(), 1000, 5000, 1, 30, 1, 'CNY', '10 off 50' from generate_series(1, {RULES}) r; \
             insert into member (member_id, created_at, updated_at) \
             select m << 22, now(), now() from generate_series(1::bigint, {members}) m; \
             insert into coupon (code_id, rule_id, issued_at, valid_from, valid_until, member_id, rule_version) \
             select ({today} - i % {days}) << 41 | i * {SPREAD} % {SERIALS}, i % {RULES} + 1, now(), \
                 now() - interval '1 day', now() + interval '30 days', (i % {members} + 1) << 22, 1 \
             from generate_series(1::bigint, {rows}) i order by {today} - i % {days}, i; \
             insert into coupon_receive (member_id, code_id, rule_id, valid_until, state) \
             select c.member_id, c.code_id, c.rule_id, c.valid_until, c.state from coupon c; \
             insert into coupon_index (rule_id, code_id, valid_until, member_id, state) \
             select c.rule_id, c.code_id, c.valid_until, c.member_id, c.state from coupon c;"
        )
    }
}
