//! Coupons of a rule issued by a job over a count, durable, beside binary `COPY` of the same rows into leaves of the same
//! shape; and what a till waits for a redemption while a job runs, beside what it waits when all is quiet.
//!
//! `TESSERA_BENCH_COUPONS=5000000` for a job of five million; memory is printed at its begin and its end.

#[expect(dead_code, reason = "jobs take no closed loop of callers")]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::TryStreamExt;
use rand::{SeedableRng, rngs::StdRng};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use support::{Contender, Measure, Reference, Round, compare, report::Report, stage::Stage};
use tessera::{
    app::App,
    clock::Clock,
    config::Settings,
    coupon::{
        desk::{RedeemRequest, Till},
        rule::{Discount, Limit, Places, RuleState, RuleVersion, Undo, Validity},
    },
    id::{RuleId, StoreNo},
    job::{
        Act, Kind, State,
        store::{self, NewJob, Uploaded},
        upload::Upload,
    },
    partition::plan,
    request::{ClaimDays, RequestNumber, store::Ticket},
    secret::{SecretFile, Secrets},
};
use tokio::runtime::Runtime;
use uuid::Uuid;

const POLL: Duration = Duration::from_millis(2);
/// Tills that redeem at once.
const TILLS: usize = 4;

/// Jobs, each of a rule of its own.
struct ByJob {
    app: Arc<App>,
    last: Option<RuleId>,
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
        loop {
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
        Round { took, p50: took / calls as u32 }
    }
}

/// The rows of the last job, copied in the order in which they lie, a transaction for all.
struct ByCopy {
    conn: PgConnection,
    coupon: String,
}

impl ByCopy {
    async fn make(mut conn: PgConnection, coupon: String) -> Self {
        conn.execute("create schema copied").await.expect("a schema");
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
        Round { took, p50: took / calls as u32 }
    }
}

/// What the process holds, in MiB.
fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// Redeems until told to stop, at most `most`; gives how long each took.
async fn tills(stage: &'static Stage, app: &Arc<App>, next: &Arc<AtomicUsize>, most: usize) -> Vec<Duration> {
    let end = next.load(Ordering::SeqCst) + most;
    let tasks: Vec<_> = (0..TILLS)
        .map(|_| {
            let (app, next) = (Arc::clone(app), Arc::clone(next));
            tokio::spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    if at >= end {
                        return waits;
                    }
                    let ask = RedeemRequest {
                        code_id: stage.coupon(at as i64 + 1).0,
                        till: Till {
                            store_no: StoreNo::new(1),
                            store_id: Arc::from("S0001"),
                            register: Some("2".to_owned()),
                            sequence: None,
                            business_day: stage.today,
                            regions: Arc::from([]),
                        },
                        order_ref: format!("S0001-{at}"),
                        amount: 8_000,
                        lines: Vec::new(),
                        currency: None,
                        member_id: None,
                    };
                    let key = Uuid::from_u64_pair((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15), at as u64);
                    let number = RequestNumber { key, days: ClaimDays::One(stage.today.to_date()) };
                    let asked = Instant::now();
                    let (answer, _) = app.desk.redeem(Ticket { number, digest: 1 }, ask).await.expect("an answer");
                    waits.push(asked.elapsed());
                    assert_eq!(answer.status, 200, "{}", answer.body);
                }
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("a till failed"));
    }
    // Numbers that were taken beyond the end were not used.
    next.store(end, Ordering::SeqCst);
    waits
}

fn p99(mut waits: Vec<Duration>) -> Duration {
    waits.sort_unstable();
    waits[waits.len() * 99 / 100]
}

fn issue_job(criterion: &mut Criterion) {
    let stage: &'static Stage = Box::leak(Box::new(Stage::new(1)));
    let mut report = Report::new("issue_job");
    let mut rng = StdRng::seed_from_u64(7);
    let secrets = Secrets::new(&SecretFile::generate(&mut rng), rng);
    let app = stage
        .runtime
        .block_on(App::start(Settings::default(), stage.service(), secrets, Clock::system(), Uuid::from_u128(1)))
        .expect("a node");
    let conn = stage.connect(1).into_iter().next().expect("one was opened");
    let leaf = plan("coupon").leaf_i64(stage.today.first_id()).to_string();
    let mut copy = stage.runtime.block_on(ByCopy::make(conn, leaf));
    let mut by_job = ByJob { app: Arc::clone(&app), last: None };
    let default = if support::report::is_quick() { 20_000 } else { 200_000 };
    let coupons = std::env::var("TESSERA_BENCH_COUPONS").map_or(default, |count| count.parse().expect("a number"));
    if coupons > 1_000_000 {
        // Once is enough: criterion would repeat it.
        let before = resident_mib();
        let took = by_job.round(&stage.runtime, coupons).took;
        let after = resident_mib();
        let theirs = CopyOfLast { copy: &mut copy, app: Arc::clone(&app) }.round(&stage.runtime, coupons).took;
        println!("{coupons} coupons: {before} MiB before, {after} MiB after");
        let rate = |took: Duration| format!("{:.0}/s", coupons as f64 / took.as_secs_f64());
        let name = format!("binary COPY: {}", rate(theirs));
        report.add("issue job", "1", rate(took), name, theirs.as_secs_f64() / took.as_secs_f64(), "≥ 0.7");
    } else {
        let mut by_copy = CopyOfLast { copy: &mut copy, app: Arc::clone(&app) };
        compare(
            criterion,
            &mut report,
            &stage.runtime,
            ("issue job", 1, coupons),
            &mut by_job,
            &mut [Reference { side: &mut by_copy, measure: Measure::Rate, goal: "≥ 0.7" }],
        );
    }
    let (next, redemptions) = (Arc::new(AtomicUsize::new(0)), stage.rows as usize / 4);
    let (quiet, during) = stage.runtime.block_on(async {
        tills(stage, &app, &next, redemptions / 2).await;
        let quiet = p99(tills(stage, &app, &next, redemptions).await);
        let job = by_job.run(coupons * 4);
        let during = tills(stage, &app, &next, redemptions);
        let (_, during) = tokio::join!(job, during);
        (quiet, p99(during))
    });
    let show = |took: Duration| format!("p99 {:.1} ms", took.as_secs_f64() * 1e3);
    let ratio = during.as_secs_f64() / quiet.as_secs_f64();
    let tills = TILLS.to_string();
    report.add("redeem while a job runs", &tills, show(during), format!("quiet: {}", show(quiet)), ratio, "-");
    report.finish();
    stage.runtime.block_on(app.stop());
    stage.end();
}

criterion_group!(benches, issue_job);
criterion_main!(benches);
