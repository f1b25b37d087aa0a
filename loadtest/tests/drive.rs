//! The driver against real PostgreSQL and real nodes. Nothing here is judged by how long it takes.

mod support;

use loadtest::drive::{
    Verdict,
    check::{self, Books, Finding},
    engine::days_of,
    journal::Sent,
    op::Op,
    record::OpStats,
    result::Run,
    workload::BusinessDays,
};
use sqlx::{AssertSqlSafe, PgConnection};
use support::{Ground, text};
use tessera::clock::Clock;

fn broken(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|finding| finding.broken > 0).map(|finding| finding.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_at_the_tills_is_sent_checked_shown_compared_merged_and_gated() {
    let ground = Ground::make(2).await;
    let node = ground.node().await;
    let (first, second, merged) = (ground.path("a.json"), ground.path("b.json"), ground.path("c.json"));
    let (workload, url) = (ground.small("pos-day"), ground.url());
    for (out, seed) in [(&first, "1"), (&second, "2")] {
        let args = ["run", "--workload", &workload, "--url", &node.url, "--database-url", &url, "--out", text(out)];
        let more = ["--seed", seed, "--rate", "50", "--seconds", "2", "--tills", "8"];
        ground.loadtest(&[&args[..], &more].concat()).await.unwrap();
        let run = Run::load(out).unwrap();
        let findings = run.findings.as_ref().unwrap();
        assert!(broken(findings).is_empty(), "{}", check::render(findings));
        assert!(findings.iter().any(|finding| finding.name == "acknowledged" && finding.looked_at > 0));
        let redeemed = &run.record.ops[&Op::Redeem];
        assert!(redeemed.ok > 0 && redeemed.server_total.count() > 0, "{redeemed:?}");
        assert_eq!(run.server.profile, "debug");
        // Whole as it is: nothing is fetched from anywhere, no script runs.
        let page = std::fs::read_to_string(out.with_extension("html")).unwrap();
        for foreign in ["<script", "src=", "href=", "url(", "@import", "NaN"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("<svg") && page.contains("index-agrees"));
    }
    ground.loadtest(&["compare", text(&first), text(&second)]).await.unwrap();
    ground.loadtest(&["merge", text(&first), text(&second), "--out", text(&merged)]).await.unwrap();
    let requests = |path| Run::load(path).unwrap().record.ops.values().map(OpStats::requests).sum::<u64>();
    assert_eq!(requests(&merged), requests(&first) + requests(&second));
    // The merged result has both journals, and is checked as one.
    let checked = ground.loadtest(&["check", text(&merged), "--database-url", &url]).await.unwrap();
    assert_eq!(checked, Verdict::Passed);
    // What each was told of alone is not all that its rules hold; a stranger's journal is seen at once.
    let gate = |tolerance| ["compare", text(&first), text(&first), "--gate", tolerance];
    assert_eq!(ground.loadtest(&gate("--errors-tolerance=0")).await.unwrap(), Verdict::Passed);
    assert_eq!(ground.loadtest(&gate("--errors-tolerance=-1")).await.unwrap(), Verdict::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_built_in_workload_runs_and_its_books_agree() {
    let ground = Ground::make(2).await;
    let today = tessera::clock::Zone::DEFAULT.day_of(Clock::system().now()).to_date();
    let (first, _) = days_of(BusinessDays::OverMonthEnd, today);
    ground.make_leaves_from(first).await;
    let node = ground.node().await;
    let (out, url) = (ground.path("a.json"), ground.url());
    // Those of `coherence` and `pos-day` have tests of their own.
    for name in ["claim-rush", "marketing", "lookup-only", "mixed-hot-keys", "soak", "month-end"] {
        let workload = ground.small(name);
        let args = ["run", "--workload", &workload, "--url", &node.url, "--database-url", &url, "--out", text(&out)];
        let more = ["--rate", "60", "--seconds", "2", "--tills", "12"];
        let verdict = ground.loadtest(&[&args[..], &more].concat()).await.unwrap();
        let run = Run::load(&out).unwrap();
        let shown = loadtest::drive::report::text(&run);
        assert_eq!(verdict, Verdict::Passed, "{name}: {shown}");
        assert!(run.record.failures() == 0 && run.record.requests() > 60, "{name}: {shown}");
        let ok = |op| run.record.ops.get(&op).is_some_and(|stats: &OpStats| stats.ok > 0);
        let expected: &[Op] = match name {
            "claim-rush" => &[Op::Claim, Op::Lookup],
            "lookup-only" => &[Op::Lookup, Op::Member],
            _ => &[Op::Lookup, Op::Lock, Op::Redeem],
        };
        assert!(expected.iter().all(|op| ok(*op)), "{name}: {shown}");
        if matches!(name, "marketing" | "soak") {
            assert!(run.notes.iter().any(|note| note.contains("2 issue jobs made 80 coupons")), "{name}: {shown}");
        }
    }
    // A single month's ledger would say that nothing rolled over.
    let months = "select count(distinct tableoid) from redemption";
    let months: i64 = sqlx::query_scalar(months).fetch_one(&mut ground.sql().await).await.unwrap();
    assert!(months > 1, "{months} leaves of the ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_beside_the_tills_fails_the_run_and_loses_nothing_that_was_measured() {
    let ground = Ground::make(1).await;
    let node = ground.node_by_tls();
    let (out, cert) = (ground.path("a.json"), ground.path("cert.pem"));
    let workload = ground.small_but("smoke", |workload| workload.jobs.coupons = 0);
    let args = ["run", "--workload", &workload, "--url", &node.url, "--out", text(&out), "--seconds", "1"];
    // A certificate that nobody vouches for is refused, and so is a database that is not there, before anything is sent.
    let error = format!("{:#}", ground.loadtest(&args).await.unwrap_err());
    assert!(error.contains("refused TLS"), "{error}");
    let by_tls = [&args[..], &["--ca", text(&cert)]].concat();
    let nowhere = ["--database-url", "postgres://nobody@127.0.0.1:9/none"];
    let error = format!("{:#}", ground.loadtest(&[&by_tls[..], &nowhere].concat()).await.unwrap_err());
    assert!(error.contains("cannot be reached") && !out.exists(), "{error}");
    assert_eq!(ground.loadtest(&by_tls).await.unwrap(), Verdict::Failed);
    let run = Run::load(&out).unwrap();
    assert!(run.record.requests() > 20 && run.record.failures() == 0, "{}", loadtest::drive::report::text(&run));
    assert!(
        run.failures().len() == 1 && run.failures()[0].contains("issue jobs beside the tills"),
        "{:?}",
        run.failures()
    );
    // The page says what the checker found later.
    let page = || std::fs::read_to_string(out.with_extension("html")).unwrap();
    assert!(page().contains("the books were not looked at"));
    let checked = ground.loadtest(&["check", text(&out), "--database-url", &ground.url()]).await.unwrap();
    assert_eq!(checked, Verdict::Passed);
    assert!(!page().contains("the books were not looked at") && page().contains("index-agrees"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_for_a_rate_gives_each_trial_coupons_of_its_own() {
    let ground = Ground::make(1).await;
    let node = ground.node().await;
    let (out, url) = (ground.path("found.json"), ground.url());
    let workload = ground.small_but("mixed-hot-keys", |workload| workload.prepare.coupons = Some(20));
    let args = ["find", "--workload", &workload, "--url", &node.url, "--database-url", &url, "--out", text(&out)];
    // A bound that nothing keeps: the rate is halved until there is none.
    let more = ["--p99", "0.001", "--trial", "2", "--from", "8", "--tills", "2"];
    assert_eq!(ground.loadtest(&[&args[..], &more].concat()).await.unwrap(), Verdict::Failed);
    let found: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let trials = found["trials"].as_array().unwrap();
    let rates: Vec<f64> = trials.iter().map(|trial| trial["rate"].as_f64().unwrap()).collect();
    assert_eq!(rates, [8.0, 4.0, 2.0, 1.0]);
    assert!(trials.iter().all(|trial| trial["errors"] == 0) && found["found_requests_per_second"].is_null(), "{found}");
    let mut conn = ground.sql().await;
    let rules = "select count(*) from coupon_rule_version where name like 'load %'";
    assert_eq!(sqlx::query_scalar::<_, i64>(rules).fetch_one(&mut conn).await.unwrap(), 2 * 4);
    let mut books = Books::default();
    books.read(&out.with_extension("journal")).unwrap();
    let findings = check::examine(&mut conn, &books, Clock::system().now()).await.unwrap();
    assert!(broken(&findings).is_empty() && books.rules().len() == 2 * 4, "{}", check::render(&findings));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_together_with_their_file_or_not_at_all() {
    use std::os::unix::fs::PermissionsExt;
    let ground = Ground::make(1).await;
    let (out, url, mut conn) = (ground.path("more-keys"), ground.url(), ground.sql().await);
    let mut keys =
        async || sqlx::query_scalar::<_, i64>("select count(*) from api_key").fetch_one(&mut conn).await.unwrap();
    let before = keys().await;
    let args = ["keys", "--database-url", &url, "--stores", "2", "--out", text(&out)];
    ground.loadtest(&args).await.unwrap();
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((std::fs::read_to_string(&out).unwrap().lines().count(), keys().await), (3, before + 3));
    let error = format!("{:#}", ground.loadtest(&args).await.unwrap_err());
    assert!(error.contains("choose another with --out"), "{error}");
    assert_eq!((std::fs::read_to_string(&out).unwrap().lines().count(), keys().await), (3, before + 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debug_build_is_refused() {
    use clap::Parser;
    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: loadtest::drive::Command,
    }
    let run = loadtest::drive::run(Cli::parse_from(["loadtest", "run", "--url", "http://127.0.0.1:9"]).command);
    let error = format!("{:#}", run.await.unwrap_err());
    assert!(!cfg!(debug_assertions) || error.contains("debug build"), "{error}");
}

/// Breaks the database in a transaction, or the books in memory, and sees who notices.
struct Breaker {
    conn: PgConnection,
    books: Books,
}

impl Breaker {
    async fn sees(&mut self, sql: &str) -> Vec<Finding> {
        sqlx::raw_sql("begin").execute(&mut self.conn).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.conn).await;
        let done = done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(done.rows_affected() > 0, "{sql}: nothing to break");
        let findings = check::examine(&mut self.conn, &self.books, Clock::system().now()).await.unwrap();
        sqlx::raw_sql("rollback").execute(&mut self.conn).await.unwrap();
        findings
    }

    async fn assert_seen(&mut self, name: &str, sql: &str) {
        let findings = self.sees(sql).await;
        assert!(broken(&findings).contains(&name), "{name}: {sql}\n{}", check::render(&findings));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_invariant_that_is_broken_on_purpose_is_seen() {
    let ground = Ground::make(2).await;
    let node = ground.node().await;
    let out = ground.path("a.json");
    ground.loadtest(&["run", "--workload", "smoke", "--url", &node.url, "--out", text(&out)]).await.unwrap();
    let run = Run::load(&out).unwrap();
    let mut books = Books::default();
    books.read(&run.journals[0]).unwrap();
    books.runs = vec![run.run.clone()];
    assert!(books.jobs.len() > 2, "prepared ones, and those beside the tills");
    let (use_, order) = acknowledged(&books, Op::Redeem);
    let (claimed, _) = acknowledged(&books, Op::Issue);
    let mut breaker = Breaker { conn: ground.sql().await, books };
    let conn = &mut breaker.conn;
    let whole = check::examine(conn, &breaker.books, Clock::system().now()).await.unwrap();
    assert!(broken(&whole).is_empty(), "{}", check::render(&whole));

    let coupon = format!("(select code_id from redemption where redemption_id = {use_})");
    let rule = format!("(select rule_id from redemption where redemption_id = {use_})");
    let version = format!("update coupon_rule_version set {{}} where rule_id = {rule}");
    let with = |what: &str| version.replace("{}", what);
    let stock = |what: &str, part: &str| format!("update coupon_stock set {what} where rule_id = {rule} and {part}");
    let whole_rule = "period = 0 and store_no = 0";
    for (name, sql) in [
        ("jobs", format!("delete from coupon where code_id = {coupon}")),
        ("jobs", "update job_range set coupons = coupons + 1".to_owned()),
        ("stock-agrees", stock("issued = issued + 1", whole_rule)),
        ("stock-agrees", format!("delete from coupon_index where rule_id = {rule} and code_id = {coupon}")),
        ("stock-agrees", stock("issued = issued + 1", "store_no <> 0")),
        ("stock-kept", with("stock = 1")),
        ("stock-kept", with("stock_per_store = 0")),
        ("money-agrees", stock("spent = spent + 1", whole_rule)),
        ("money-agrees", stock("spent = spent + 1", "store_no <> 0")),
        ("money-agrees", format!("update redemption set discount = discount + 1 where redemption_id = {use_}")),
        ("money-kept", with("budget = 1")),
        ("money-kept", with("budget_per_store = 1")),
        ("uses-kept", format!("update coupon set uses = uses + 1 where code_id = {coupon}")),
        ("uses-kept", with("uses = 3")),
        ("one-winner", format!("update coupon set order_ref = 'another' where code_id = {coupon}")),
        ("one-winner", format!("update coupon set redemption_id = null where code_id = {coupon}")),
        ("one-winner", second_use(&use_)),
        ("member-limit", with("per_member = 1")),
        ("member-limit", format!("update member_rule set taken = taken + 1 where rule_id = {rule}")),
        // Taken, and nothing there: what a claim that was refused must not leave.
        ("member-limit", format!("insert into member_rule (member_id, rule_id, taken) values (1, {rule}, 1)")),
        ("index-agrees", format!("update coupon_index set state = 3 where rule_id = {rule} and code_id = {coupon}")),
        ("index-agrees", format!("delete from coupon_receive where code_id = {coupon}")),
        ("acknowledged", format!("delete from redemption where redemption_id = {use_}")),
        ("acknowledged", format!("update redemption set amount = amount + 1 where redemption_id = {use_}")),
        ("acknowledged", "delete from request".to_owned()),
        ("acknowledged", format!("update coupon set member_id = 1 where code_id = {}", check_code(&claimed))),
        ("nothing-else", second_use(&use_)),
    ] {
        breaker.assert_seen(name, &sql).await;
    }
    lost_answers(&mut breaker, &order).await;
    empty_answers(&mut breaker, &order).await;
}

/// A grant that does not say what it granted.
async fn empty_answers(breaker: &mut Breaker, order: &str) {
    let books = breaker.books.clone();
    for op in [Op::Redeem, Op::Issue] {
        let of = |sent: &&mut Sent| sent.op == op && (op != Op::Redeem || sent.about == order) && sent.done.is_some();
        let sent = breaker.books.sent.iter_mut().find(of).unwrap();
        sent.done.as_mut().unwrap().result.clear();
        let found = check::examine(&mut breaker.conn, &breaker.books, Clock::system().now()).await.unwrap();
        assert!(broken(&found).contains(&"acknowledged"), "{op:?}: {}", check::render(&found));
        breaker.books = books.clone();
    }
}

/// A second use of the same coupon under the same order, as a double redemption would leave it.
fn second_use(use_: &str) -> String {
    format!(
        "create temp table twice on commit drop as select * from redemption where redemption_id = {use_};
        update twice set redemption_id = redemption_id + 1000000000, order_ref = order_ref || '-2';
        insert into redemption select * from twice"
    )
}

fn check_code(code: &str) -> i64 {
    check::code_id(code).unwrap()
}

/// Result and order of a write of the run that still stands.
fn acknowledged(books: &Books, op: Op) -> (String, String) {
    let reversed = |sent: &Sent| books.sent.iter().any(|other| other.op == Op::Reverse && other.about == sent.about);
    let sent = books.sent.iter().find(|sent| sent.op == op && sent.done.is_some() && !reversed(sent)).unwrap();
    (sent.done.as_ref().unwrap().result.clone(), sent.about.clone())
}

/// Of a redemption whose answer is taken out of the books: whole, and absent, are fine; halves are not.
async fn lost_answers(breaker: &mut Breaker, order: &str) {
    let books = breaker.books.clone();
    let lose = |sent: &mut Sent| sent.op == Op::Redeem && sent.about == order && sent.done.take().is_some();
    assert!(breaker.books.sent.iter_mut().any(lose));
    let whole = check::examine(&mut breaker.conn, &breaker.books, Clock::system().now()).await.unwrap();
    assert!(broken(&whole).is_empty(), "{}", check::render(&whole));
    let half = format!("delete from redemption where order_ref = '{order}'");
    breaker.assert_seen("unknown-whole", &half).await;
    breaker.assert_seen("unknown-whole", "delete from request").await;
    // Nobody sent it at all.
    breaker.books.sent.retain(|sent| !(sent.op == Op::Redeem && sent.about == order));
    let found = check::examine(&mut breaker.conn, &breaker.books, Clock::system().now()).await.unwrap();
    assert_eq!(broken(&found), ["nothing-else"], "{}", check::render(&found));
    breaker.books = books;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_keep_the_stated_bound_under_load_also_while_one_cannot_follow_the_events() {
    let ground = Ground::make(2).await;
    let first = ground.node().await;
    let tails = "select array_agg(pid) from pg_stat_activity where application_name = 'tessera tail'";
    let mut conn = ground.sql().await;
    let before: Vec<i32> = sqlx::query_scalar(tails).fetch_one(&mut conn).await.unwrap();
    let second = ground.node().await;
    let urls = format!("{},{}", first.url, second.url);
    let out = ground.path("a.json");
    let workload = ground.small("coherence");
    let args = ["run", "--workload", &workload, "--url", &urls, "--out", text(&out)];
    let small = ["--rate", "40", "--seconds", "6", "--tills", "6"];
    let all = [&args[..], &small].concat();
    let running = ground.loadtest(&all);
    let pausing = async {
        // The backend that the second node's tail speaks to stands still for longer than the bound.
        for _ in 0..2 {
            tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
            // A tail that waits too long connects anew.
            let after: Vec<i32> = sqlx::query_scalar(tails).fetch_one(&mut conn).await.unwrap();
            let tail = after.into_iter().find(|pid| !before.contains(pid)).expect("the second node follows the events");
            signal("-STOP", tail);
            tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
            signal("-CONT", tail);
        }
    };
    let (ran, ()) = tokio::join!(running, pausing);
    ran.unwrap();
    let seen = Run::load(&out).unwrap().coherence.unwrap();
    assert!(seen.changes > 4 && seen.violations == 0 && seen.lost == 0, "{seen:?}");
}

fn signal(what: &str, pid: i32) {
    let sent = std::process::Command::new("kill").args([what, &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "the database's process may be signalled");
}
