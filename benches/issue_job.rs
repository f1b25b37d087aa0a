//! Coupons of a rule issued by a job over a count, durable, beside binary `COPY` of the same rows into leaves of the same
//! shape; and what a till waits for a redemption while a job runs, beside what it waits when all is quiet.
//!
//! `TESSERA_BENCH_COUPONS=5000000` for a job of five million; memory is printed at its begin and its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tessera::{
    app::App,
    coupon::rule::{Discount, Limit, Places, RuleState, RuleVersion, Undo, Validity},
    id::RuleId,
    job::{
        Act, Kind, State,
        store::{self, NewJob, Uploaded},
        upload::Upload,
    },
    partition::plan,
};
use tokio::runtime::Runtime;

use crate::{
    lane_redeem::ByLane,
    support::{
        Bench, Caller, Contender, Measure, Path, Reference, Round, compare, machine::resident_mib, report::is_quick,
        stage::Stage,
    },
};

const POLL: Duration = Duration::from_millis(10);
/// Tills that redeem at once.
const TILLS: usize = 4;
/// From one customer of a till to the next, however long the redemption takes.
const TILL_PAUSE: Duration = Duration::from_millis(20);
const FILE: &str = "issue_job";

/// Jobs, each of a rule of its own.
struct ByJob {
    app: Arc<App>,
    last: Option<RuleId>,
    /// What the process held while the last job ran, in MiB.
    resident: Vec<u64>,
}

impl ByJob {
    async fn rule(&self) -> RuleId {
        let rule_id = self.app.minter.mint_rule().expect("an id");
        let version = RuleVersion {
            rule_id,
            version: 1,
            name: "bench".to_owned(),
            discount: Discount::AmountOff { amount: 1000 },
            currency: "CNY".to_owned(),
            threshold: 0,
            validity: Validity::DaysAfterIssue(30),
            stock: Limit::default(),
            budget: Limit::default(),
            per_member: None,
            uses: 1,
            places: Places::default(),
            undo: Undo::default(),
            claimable: false,
        };
        self.app.desk.create_rule(RuleState::Active, version).await.expect("a rule");
        rule_id
    }

    async fn run(&mut self, coupons: usize) -> Duration {
        let rule_id = self.rule().await;
        self.last = Some(rule_id);
        let (app, now) = (&self.app, self.app.clock.now());
        let options = serde_json::json!({ "rule_id": rule_id, "count": coupons });
        let new = NewJob {
            job_id: app.minter.mint_job().expect("an id"),
            kind: Kind::IssueJob,
            created_by: "key:bench".to_owned(),
            file_name: None,
            options: options.clone(),
        };
        let mut upload = Upload::begin(&app.office, &app.secrets, new, i64::MAX, now).await.expect("a job");
        let digest = upload.count(coupons as i64, now).await.expect("a count");
        let preview = serde_json::json!({});
        let uploaded = Uploaded { digest, numbers: Vec::new(), options, preview, state: State::Ready };
        let job_id = upload.end(&uploaded, now).await.expect("a job that waits").0.job_id;
        let mut conn = app.office.get().await.expect("a connection");
        let began = Instant::now();
        store::update_state(&mut conn, Kind::IssueJob, job_id, Act::Start, app.clock.now()).await.expect("started");
        app.jobs.wake();
        self.resident.clear();
        loop {
            self.resident.push(resident_mib());
            let job = store::get_job(&mut conn, Kind::IssueJob, job_id).await.expect("the job");
            if job.state.has_ended() {
                let count = coupons as i64;
                assert_eq!((job.state, job.rows_ok, job.rows_failed), (State::Done, count, 0), "{:?}", job.error);
                return began.elapsed();
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Contender for ByJob {
    fn name(&self) -> &str {
        "issue job"
    }

    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round {
        let took = runtime.block_on(self.run(calls));
        Round::whole(took)
    }
}

/// The rows of the last job, copied in the order in which they lie, a transaction for all.
struct ByCopy {
    conn: PgConnection,
    coupon: String,
}

impl ByCopy {
    async fn make(mut conn: PgConnection, coupon: String) -> Self {
        conn.execute("create schema if not exists copied").await.expect("a schema");
        let leaves = plan("coupon_index").hash_leaves().map(|leaf| leaf.to_string());
        for leaf in leaves.chain([coupon.clone()]) {
            let storage: String =
                sqlx::query_scalar("select array_to_string(reloptions, ', ') from pg_class where oid = $1::regclass")
                    .bind(&leaf)
                    .fetch_one(&mut conn)
                    .await
                    .expect("each leaf has a fill factor");
            let table = format!("create table copied.{leaf} (like public.{leaf} including all) with ({storage})");
            conn.execute(AssertSqlSafe(table)).await.expect("a table");
        }
        Self { conn, coupon }
    }

    async fn run(&mut self, rule_id: RuleId, coupons: usize) -> Duration {
        let conn = &mut self.conn;
        let mut taken = Vec::new();
        for leaf in [self.coupon.clone(), plan("coupon_index").leaf_i64(rule_id.get()).to_string()] {
            let out = format!("copy (select * from public.{leaf} where rule_id = {rule_id}) to stdout (format binary)");
            let bytes: Vec<_> = conn.copy_out_raw(&out).await.expect("rows").try_collect().await.expect("rows");
            taken.push((leaf, bytes));
        }
        conn.execute("checkpoint").await.expect("nothing to write");
        let (began, mut copied) = (Instant::now(), 0);
        conn.execute("begin").await.expect("a transaction");
        for (leaf, pieces) in taken {
            let mut copy =
                conn.copy_in_raw(&format!("copy copied.{leaf} from stdin (format binary)")).await.expect("a copy");
            let mut message = Vec::with_capacity(256 << 10);
            for piece in pieces {
                message.extend_from_slice(&piece);
                if message.len() > 200 << 10 {
                    copy.send(message.as_slice()).await.expect("rows are taken");
                    message.clear();
                }
            }
            copy.send(message.as_slice()).await.expect("rows are taken");
            copied += copy.finish().await.expect("rows are taken");
        }
        conn.execute("commit").await.expect("a transaction");
        let took = began.elapsed();
        assert_eq!(copied, coupons as u64 * 2);
        took
    }
}

/// The copies take what the last job made, whichever that was.
struct CopyOfLast<'a> {
    copy: &'a mut ByCopy,
    app: Arc<App>,
}

impl Contender for CopyOfLast<'_> {
    fn name(&self) -> &str {
        "binary COPY of the same rows, one connection"
    }

    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round {
        let took = runtime.block_on(async {
            let mut conn = self.app.office.get().await.expect("a connection");
            let last: i64 =
                sqlx::query_scalar("select max(rule_id) from coupon_rule").fetch_one(&mut *conn).await.expect("a rule");
            self.copy.run(RuleId::new(last).expect("an id"), calls).await
        });
        Round::whole(took)
    }
}

/// Tills that redeem until they are told to stop; gives how long each redemption took.
async fn tills(stage: &'static Stage, app: &Arc<App>, stop: &Arc<AtomicBool>) -> Vec<Duration> {
    let tasks: Vec<_> = ByLane::callers(stage, app, TILLS)
        .into_iter()
        .map(|mut till| {
            let stop = Arc::clone(stop);
            tokio::spawn(async move {
                let (mut waits, mut due) = (Vec::new(), Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    till.call().await;
                    waits.push(due.elapsed());
                    // A stall must not pass for one long wait: whoever would have come in it waits too.
                    due += TILL_PAUSE;
                    if due > Instant::now() {
                        tokio::time::sleep_until(due.into()).await;
                        // The timer's own lateness is nobody's wait.
                        due = Instant::now();
                    }
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("a till failed"));
    }
    waits
}

/// Redemptions at a steady rate while something else goes on.
async fn while_tills_run<T>(stage: &'static Stage, app: &Arc<App>, other: impl Future<Output = T>) -> (Round, T) {
    let stop = Arc::new(AtomicBool::new(false));
    let other = async {
        let outcome = other.await;
        stop.store(true, Ordering::Relaxed);
        outcome
    };
    let (waits, outcome) = tokio::join!(tills(stage, app, &stop), other);
    (Round::of(Duration::ZERO, waits), outcome)
}

pub fn run(bench: &mut Bench, stage: &'static Stage, app: &Arc<App>) {
    let leaf = plan("coupon").leaf_i64(stage.today.first_id()).to_string();
    let mut copy = stage.runtime.block_on(ByCopy::make(stage.admin(), leaf));
    let mut by_job = ByJob { app: Arc::clone(app), last: None, resident: Vec::new() };
    let default = if is_quick() { 5_000 } else { 100_000 };
    let coupons = std::env::var("TESSERA_BENCH_COUPONS").map_or(default, |count| count.parse().expect("a number"));
    if coupons > 200_000 {
        // Once is enough: criterion would repeat it.
        let took = by_job.round(stage.runtime, coupons).took;
        let memory = std::mem::take(&mut by_job.resident);
        let theirs = CopyOfLast { copy: &mut copy, app: Arc::clone(app) }.round(stage.runtime, coupons).took;
        let rate = |took: Duration| format!("{:.0}/s", coupons as f64 / took.as_secs_f64());
        let (name, ratio) = (format!("binary COPY: {}", rate(theirs)), theirs.as_secs_f64() / took.as_secs_f64());
        bench.report.add(FILE, "issue job", 1, rate(took), name, ratio, "issue job");
        bench.report.note(told(coupons, &memory));
    } else {
        let mut by_copy = CopyOfLast { copy: &mut copy, app: Arc::clone(app) };
        let path = Path { file: FILE, path: "issue job", tasks: 1, calls: coupons };
        let measures = &[(Measure::Rate, "issue job")];
        compare(bench, path, &mut by_job, &mut [Reference { side: &mut by_copy, measures }]);
        bench.report.note(told(coupons, &by_job.resident));
    }
    let (quiet, during) = stage.runtime.block_on(async {
        let pause = tokio::time::sleep(Duration::from_millis(if is_quick() { 500 } else { 5_000 }));
        let (quiet, ()) = while_tills_run(stage, app, pause).await;
        let (during, _) = while_tills_run(stage, app, by_job.run(coupons.min(500_000) * 3)).await;
        (quiet, during)
    });
    for (name, quiet, during) in [("p50", quiet.p50, during.p50), ("p99", quiet.p99, during.p99)] {
        let show = |took: Duration| format!("{name} {:.1} ms", took.as_secs_f64() * 1e3);
        let ratio = during.as_secs_f64() / quiet.as_secs_f64();
        let beside = format!("no job: {}", show(quiet));
        bench.report.add(FILE, "redeem while a job runs", TILLS, show(during), beside, ratio, "");
    }
}

/// Memory at the begin, in the middle and at the end of the last job.
fn told(coupons: usize, resident: &[u64]) -> String {
    let (first, middle) = (resident.first().unwrap_or(&0), resident.get(resident.len() / 2).unwrap_or(&0));
    let (last, most) = (resident.last().unwrap_or(&0), resident.iter().max().unwrap_or(&0));
    format!(
        "A job of {coupons} coupons: the process held {first} MiB at its begin, {middle} in its middle, {last} at its \
         end, {most} at most."
    )
}
