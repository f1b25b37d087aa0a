//! The same hot set on a tenth of the rows: what a lookup touches, and how long it takes; and a grid of rows, tasks and
//! layouts.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tessera::{app::App, coupon::read::FindCoupon};

use crate::{
    lane_read::{ByLane, ByQuery, Draw, statement},
    support::{Bench, Measure, Path, Reference, Side, compare, report::is_quick, stage::Stage},
};

const FILE: &str = "growth";
const TASKS: usize = 16;
const HOT: i64 = 1_000;
/// More connections than that make one query a request slower here.
const CLIENTS_MAX: usize = 16;
/// Lookups that are explained.
const EXPLAINED: usize = 100;

/// Leaves and buffers of a lookup by code through the parent, on average.
fn touched(stage: &'static Stage) -> (f64, f64) {
    let mut conn = stage.admin();
    let mut draw = Draw::new(stage, stage.rows, 7);
    let sql = statement("from public.coupon ");
    stage.runtime.block_on(async {
        for (name, value) in Stage::settings() {
            let value = if name == "plan_cache_mode" { "force_custom_plan" } else { value };
            let set = format!("set {name} = '{value}'");
            conn.execute(AssertSqlSafe(set)).await.expect("a setting");
        }
        let (mut leaves, mut buffers) = (0, 0);
        for _ in 0..EXPLAINED {
            let sql = sql.replace("$1", &draw.next().get().to_string());
            // Twice, since the first one of a connection reads what stands in no cache of its own yet.
            for last in [false, true] {
                let plan = explain(&mut conn, &sql).await;
                if last {
                    leaves += plan.matches("Index Scan using").count();
                    buffers += buffers_of(&plan);
                }
            }
        }
        (leaves as f64 / EXPLAINED as f64, buffers as f64 / EXPLAINED as f64)
    })
}

async fn explain(conn: &mut PgConnection, sql: &str) -> String {
    let explain = format!("explain (analyze, buffers, timing off, summary off) {sql}");
    let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(conn).await.expect("a plan");
    // What planning touched stands after.
    let executed = lines.into_iter().take_while(|line| !line.starts_with("Planning"));
    executed.filter(|line| !line.contains("never executed")).collect::<Vec<_>>().join("\n")
}

/// Of `Buffers: shared hit=4 read=1`, which the topmost line of a plan sums up.
fn buffers_of(plan: &str) -> u64 {
    let line = plan.lines().find_map(|line| line.trim().strip_prefix("Buffers: shared ")).unwrap_or_default();
    line.split(' ').filter_map(|part| part.split_once('=')?.1.parse::<u64>().ok()).sum()
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>, small: &'static Stage) {
    let ((leaves, buffers), (few_leaves, few_buffers)) = (touched(stage), touched(small));
    let beside = |value: f64| format!("{} rows: {value:.2}", small.rows);
    for (path, ours, theirs, row) in [
        ("partitions of a lookup by code", leaves, few_leaves, "partitions"),
        ("buffers of a lookup by code", buffers, few_buffers, "buffers"),
    ] {
        let shown = format!("{} rows: {ours:.2}", stage.rows);
        bench.report.add(FILE, path, 1, shown, beside(theirs), ours / theirs, row);
    }
    let small_app = small.app(crate::support::stage::settings());
    let side = |stage: &'static Stage, app: &Arc<App>| {
        let reader = app.lane.reader(FindCoupon);
        let callers = (0..TASKS).map(|caller| ByLane(Draw::new(stage, HOT, caller), reader.clone())).collect();
        Side::new(format!("{} rows", stage.rows), callers)
    };
    let (mut ours, mut theirs) = (side(stage, app), side(small, &small_app));
    let calls = if is_quick() { 1_000 } else { 24_000 };
    let path = Path { file: FILE, path: "the same hot set in more rows", tasks: TASKS, calls };
    let measures = &[(Measure::P50, "growth p50"), (Measure::P99, "growth p99")];
    compare(bench, path, &mut ours, &mut [Reference { side: &mut theirs, measures }]);
    for (stage, app) in [(small, &small_app), (stage, app)] {
        grid(bench, stage, app);
    }
    stage.runtime.block_on(small_app.stop());
}

/// The hot set through the lane into its leaf, beside one query a request on the parent of all leaves and on a flat table.
fn grid(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    let name: &'static str = format!("hot set of {} rows", stage.rows).leak();
    for (tasks, calls) in [(1, 500), (16, 4_000), (64, 10_000)] {
        if is_quick() && tasks > 1 {
            continue;
        }
        let reader = app.lane.reader(FindCoupon);
        let callers = (0..tasks).map(|caller| ByLane(Draw::new(stage, HOT, caller), reader.clone())).collect();
        let mut ours = Side::new("lane", callers);
        let clients = tasks.min(CLIENTS_MAX);
        let side = |layout: &str, is_flat| {
            let callers = ByQuery::callers(stage, HOT, clients, is_flat);
            Side::new(format!("{layout}, sqlx, {clients} clients"), callers)
        };
        let (mut parent, mut flat) = (side("parent", false), side("flat", true));
        let measures: &[(Measure, &str)] = if tasks == 1 { &[(Measure::P50, "")] } else { &[(Measure::Rate, "")] };
        let references = &mut [Reference { side: &mut parent, measures }, Reference { side: &mut flat, measures }];
        compare(bench, Path { file: FILE, path: name, tasks, calls }, &mut ours, references);
    }
}
