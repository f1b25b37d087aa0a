//! A point read of a coupon through the lane, beside one query a request: by pgbench on a flat table, and on the parent.

use std::sync::Arc;

use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::{PgConnection, Row};
use tessera::{app::App, coupon::read::FindCoupon, db::lane::Reader, id::CodeId, partition::query};

use crate::support::{
    Bench, Caller, Measure, Path, Reference, Side, best, clients, compare, pgbench::Pgbench, report::is_quick,
    stage::Stage,
};

const FILE: &str = "lane_read";
/// Coupons that everybody asks for.
pub const HOT: i64 = 10_000;

/// Draws coupons uniformly over the first so many.
pub struct Draw {
    stage: &'static Stage,
    of: i64,
    rng: StdRng,
}

impl Draw {
    pub fn new(stage: &'static Stage, of: i64, caller: usize) -> Self {
        Self { stage, of: of.min(stage.rows), rng: StdRng::seed_from_u64(caller as u64) }
    }

    pub fn next(&mut self) -> CodeId {
        self.stage.coupon(self.number()).0
    }

    /// One of those in flat tables.
    fn next_flat(&mut self) -> CodeId {
        let number = self.number().min(self.stage.flat_rows);
        self.stage.flat_coupon(number).0
    }

    pub fn number(&mut self) -> i64 {
        self.rng.random_range(1..=self.of)
    }
}

/// One who asks the lane.
pub struct ByLane(pub Draw, pub Reader<FindCoupon>);

impl Caller for ByLane {
    async fn call(&mut self) {
        let code_id = self.0.next();
        let (coupon, _) = self.1.find(code_id).await.expect("the lane answers");
        assert_eq!(coupon.expect("every coupon is there").code_id, code_id);
    }
}

/// One query a request.
pub struct ByQuery {
    draw: Draw,
    conn: PgConnection,
    sql: &'static str,
    is_flat: bool,
}

impl ByQuery {
    /// So many who ask for one of the first `of` coupons on the partitioned parent, or on a flat table.
    pub fn callers(stage: &'static Stage, of: i64, clients: usize, is_flat: bool) -> Vec<Self> {
        let sql = statement(if is_flat { "from flat.coupon " } else { "from public.coupon " });
        // Others than the lane's, which it would find in memory after it.
        let draw = |caller| Draw::new(stage, of, caller + 1_000);
        let conns = stage.connect(clients).into_iter().enumerate();
        conns.map(|(caller, conn)| Self { draw: draw(caller), conn, sql, is_flat }).collect()
    }
}

impl Caller for ByQuery {
    async fn call(&mut self) {
        let code_id = if self.is_flat { self.draw.next_flat() } else { self.draw.next() };
        let row = sqlx::query(self.sql).bind(code_id).fetch_one(&mut self.conn).await.expect("a row");
        assert_eq!(row.get::<i64, _>(0), code_id.get());
    }
}

/// The lane's statement for one key.
pub fn statement(table: &str) -> &'static str {
    let sql = query("coupon/find").parent().replace("any($1::bigint[])", "$1").replace("from coupon ", table);
    assert!(sql.ends_with("= $1") && sql.contains(table), "{sql}");
    Box::leak(sql.into_boxed_str())
}

fn on_parent(stage: &'static Stage, tasks: usize, calls: usize) -> Side<ByQuery> {
    let sides = clients(tasks).into_iter().map(|clients| {
        let callers = ByQuery::callers(stage, stage.rows, clients, false);
        Side::new(format!("parent, sqlx, {clients} clients"), callers)
    });
    best(stage.runtime, calls, sides.collect())
}

fn on_flat(stage: &'static Stage, of: i64, tasks: usize) -> Pgbench {
    let [code, ..] = stage.expressions();
    let sql = statement("from flat.coupon ").replace("$1", ":code").replace('\n', " ");
    let script = format!("\\set i random(1, {})\n\\set code {code}\n{sql};\n", of.min(stage.flat_rows));
    Pgbench::new(stage, "flat", tasks, &script, false)
}

struct Case {
    path: &'static str,
    of: i64,
    tasks: usize,
    calls: usize,
    flat: &'static [(Measure, &'static str)],
    parent: &'static [(Measure, &'static str)],
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    let reader = app.lane.reader(FindCoupon);
    let all = stage.rows;
    let (uniform, hot) = ("point read through the lane, uniform", "point read through the lane, hot set");
    let rate = |path, of, tasks, calls, flat, parent| Case { path, of, tasks, calls, flat, parent };
    let in_all: &[(Measure, &str)] = match stage.is_resident() {
        true => &[(Measure::Rate, "read uniform 64")],
        false => &[(Measure::Rate, "read cold 64")],
    };
    let cases = [
        rate(
            uniform,
            all,
            1,
            4_000,
            &[(Measure::P50, "read p50 1"), (Measure::Rate, "")],
            &[(Measure::Rate, "read parent 1")],
        ),
        rate(uniform, all, 16, 16_000, &[(Measure::Rate, "")], &[(Measure::Rate, "read parent 16")]),
        rate(uniform, all, 64, 40_000, in_all, &[(Measure::Rate, "read parent 64")]),
        rate(hot, HOT, 64, 40_000, &[(Measure::Rate, "read hot 64")], &[]),
        rate(uniform, all, 256, 60_000, &[(Measure::Rate, "")], &[]),
    ];
    for case in cases {
        if is_quick() && case.tasks == 256 {
            continue;
        }
        let calls = if is_quick() { case.calls / 20 } else { case.calls };
        let callers = (0..case.tasks).map(|caller| ByLane(Draw::new(stage, case.of, caller), reader.clone())).collect();
        let mut ours = Side::new("lane", callers);
        // More clients than 64 only make pgbench slower.
        let mut flat = on_flat(stage, case.of, case.tasks.min(64));
        let mut references = vec![Reference { side: &mut flat, measures: case.flat }];
        let mut parent = (!case.parent.is_empty()).then(|| on_parent(stage, case.tasks, calls));
        if let Some(side) = &mut parent {
            references.push(Reference { side, measures: case.parent });
        }
        let path = Path { file: FILE, path: case.path, tasks: case.tasks, calls };
        compare(bench, path, &mut ours, &mut references);
    }
}
