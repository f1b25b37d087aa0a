//! The driver against real PostgreSQL and real nodes. Nothing here is judged by how long it takes.

mod support;

use loadtest::drive::{
    Verdict,
    check::{self, Books, Finding},
    journal::Sent,
    op::Op,
    record::OpStats,
    result::Run,
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
        ("one-winner", second_use(&use_)),
        ("member-limit", with("per_member = 1")),
        ("member-limit", format!("update member_rule set taken = taken + 1 where rule_id = {rule}")),
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
