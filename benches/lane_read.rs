//! A point read of a coupon through the lane, beside one query a request: on a flat table, and on the parent.

mod support;

use std::{process::Command, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::{PgConnection, Row};
use support::{
    Caller, Contender, Measure, Reference, Round, Side, best, compare,
    report::{Report, is_quick},
    stage::Stage,
};
use tessera::{
    coupon::read::FindCoupon,
    db::lane::{Lane, Reader},
    partition::query,
};
use tokio::runtime::Runtime;

/// A year of issue days: as many leaves as a hash-partitioned table has, give or take.
const DAYS: i64 = 365;

/// Of each client of pgbench in a round.
const PGBENCH_CALLS_MIN: usize = 400;

/// Draws coupons uniformly over all rows.
struct Draw {
    stage: &'static Stage,
    rng: StdRng,
}

impl Draw {
    fn new(stage: &'static Stage, caller: usize) -> Self {
        Self { stage, rng: StdRng::seed_from_u64(caller as u64) }
    }

    fn next(&mut self) -> tessera::id::CodeId {
        self.stage.coupon(self.rng.random_range(1..=self.stage.rows)).0
    }
}

struct ByLane(Draw, Reader<FindCoupon>);

impl Caller for ByLane {
    async fn call(&mut self) {
        let code_id = self.0.next();
        let (coupon, _) = self.1.find(code_id).await.expect("the lane answers");
        assert_eq!(coupon.expect("every coupon is there").code_id, code_id);
    }
}

struct ByQuery {
    draw: Draw,
    conn: PgConnection,
    sql: &'static str,
}

impl Caller for ByQuery {
    async fn call(&mut self) {
        let code_id = self.draw.next();
        let row = sqlx::query(self.sql).bind(code_id).fetch_one(&mut self.conn).await.expect("a row");
        assert_eq!(row.get::<i64, _>(0), code_id.get());
    }
}

/// PostgreSQL's own client: less work for each request than any driver does.
struct Pgbench {
    name: String,
    clients: usize,
    stage: &'static Stage,
    script: tempfile::NamedTempFile,
}

impl Pgbench {
    fn find(stage: &'static Stage, clients: usize, sql: &str) -> Option<Self> {
        if !stage.places().1.join("pgbench").exists() {
            return None;
        }
        let script = tempfile::NamedTempFile::new().expect("a file");
        let text = format!(
            "\\set i random(1, {})\n\\set code {}\n{};\n",
            stage.rows,
            stage.code_expression(),
            sql.replace("$1", ":code").replace('\n', " ")
        );
        std::fs::write(script.path(), text).expect("a script");
        Some(Self { name: format!("flat, pgbench, {clients} clients"), clients, stage, script })
    }
}

impl Contender for Pgbench {
    fn name(&self) -> &str {
        &self.name
    }

    fn round(&mut self, _: &Runtime, calls: usize) -> Round {
        let (socket_dir, programs) = self.stage.places();
        // It connects and prepares anew in each round, which must not weigh.
        let each = calls.div_ceil(self.clients).max(if is_quick() { PGBENCH_CALLS_MIN / 4 } else { PGBENCH_CALLS_MIN });
        let settings: Vec<String> =
            Stage::settings().iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        let output = Command::new(programs.join("pgbench"))
            .args(["-n", "-M", "prepared", "-U", "postgres", "-j", &self.clients.min(2).to_string()])
            .args(["-c", &self.clients.to_string(), "-t", &each.to_string(), "-f"])
            .arg(self.script.path())
            .arg("-h")
            .arg(socket_dir)
            .arg("tessera_bench")
            .env("PGOPTIONS", settings.join(" "))
            .output()
            .expect("pgbench runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let number = |line: &str| -> Option<f64> {
            said.lines().find_map(|said| said.strip_prefix(line)?.split_whitespace().next()?.parse().ok())
        };
        let (Some(rate), Some(mean_ms)) = (number("tps = "), number("latency average = ")) else {
            panic!("pgbench said: {said}{}", String::from_utf8_lossy(&output.stderr));
        };
        let p50 = Duration::from_secs_f64(mean_ms / 1000.0);
        Round { took: Duration::from_secs_f64(calls as f64 / rate), p50 }
    }
}

fn one_query(stage: &'static Stage, sql: &'static str, what: &str, tasks: usize, calls: usize) -> Side<ByQuery> {
    let candidates = [1, 4, 16, 64].into_iter().filter(|&clients| clients <= tasks && (tasks == 1) == (clients == 1));
    let sides = candidates.map(|clients| {
        let conns = stage.connect(clients).into_iter().enumerate();
        let callers = conns.map(|(caller, conn)| ByQuery { draw: Draw::new(stage, caller), conn, sql }).collect();
        Side::new(format!("{what}, sqlx, {clients} clients"), callers)
    });
    best(&stage.runtime, calls, sides.collect())
}

/// The lane's statement for one key.
fn statement(table: &str) -> &'static str {
    let sql = query("coupon/find").parent().replace("any($1::bigint[])", "$1").replace("from coupon ", table);
    assert!(sql.ends_with("= $1") && sql.contains(table), "{sql}");
    Box::leak(sql.into_boxed_str())
}

fn lane_read(criterion: &mut Criterion) {
    let stage: &'static Stage = Box::leak(Box::new(Stage::new(DAYS)));
    let mut report = Report::new("lane_read");
    let lane = {
        let _in_runtime = stage.runtime.enter();
        Lane::start(stage.service(), support::stage::lane_settings())
    };
    let reader = lane.reader(FindCoupon);
    let (flat, parent) = (statement("from flat.coupon "), statement("from public.coupon "));
    let less = if is_quick() { 8 } else { 1 };
    for (tasks, calls, parent_goal) in [(1, 2_000, "≥ 1.3"), (16, 12_000, "≥ 2.5"), (64, 24_000, "≥ 5")] {
        let calls = calls / less;
        let callers = (0..tasks).map(|caller| ByLane(Draw::new(stage, caller), reader.clone())).collect();
        let mut ours = Side::new("lane", callers);
        let mut on_flat = one_query(stage, flat, "flat", tasks, calls);
        let mut on_parent = one_query(stage, parent, "parent", tasks, calls);
        let mut pgbench = Pgbench::find(stage, tasks, flat);
        let mut references = vec![
            Reference { side: &mut on_flat, measure: Measure::Rate, goal: "-" },
            Reference { side: &mut on_parent, measure: Measure::Rate, goal: parent_goal },
        ];
        if let Some(side) = &mut pgbench {
            let (measure, goal) = match tasks {
                1 => (Measure::P50, "≤ 1.2"),
                64 => (Measure::Rate, "≥ 3"),
                _ => (Measure::Rate, "-"),
            };
            references.push(Reference { side, measure, goal });
        }
        compare(
            criterion,
            &mut report,
            &stage.runtime,
            ("point read through the lane", tasks, calls),
            &mut ours,
            &mut references,
        );
    }
    report.finish();
    stage.runtime.block_on(lane.stop());
    stage.end();
}

criterion_group! {
    name = benches;
    config = support::report::criterion(10, 1, 1_000);
    targets = lane_read
}
criterion_main!(benches);
