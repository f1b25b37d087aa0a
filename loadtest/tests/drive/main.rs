//! The driver against real PostgreSQL and real nodes. Nothing here is judged by how long it takes.

mod books;
mod day;
mod stop;
mod support;

use loadtest::drive::{
    Verdict,
    check::{self, Books},
    engine::days_of,
    op::Op,
    record::OpStats,
    result::Run,
    workload::BusinessDays,
};
use support::{Ground, broken, signal, text};
use tessera::clock::Clock;

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
    // What is made of one run for any machine, the other is as good as.
    let baseline = ground.path("baseline.toml");
    ground.loadtest(&["baseline", text(&first), "--out", text(&baseline)]).await.unwrap();
    let gated = ground.loadtest(&["compare", text(&baseline), text(&second), "--gate"]).await.unwrap();
    assert_eq!(gated, Verdict::Passed, "{}", std::fs::read_to_string(&baseline).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_committed_baseline_passes_a_sound_run_and_stops_it_when_its_books_are_spoiled() {
    let ground = Ground::make(2).await;
    let node = ground.node().await;
    let (out, url) = (ground.path("a.json"), ground.url());
    let baseline = concat!(env!("CARGO_MANIFEST_DIR"), "/baselines/smoke.toml");
    let args = ["run", "--workload", "smoke", "--url", &node.url, "--out", text(&out), "--baseline", baseline];
    let error = format!("{:#}", ground.loadtest(&args).await.unwrap_err());
    assert!(error.contains("judges by the books") && !out.exists(), "{error}");
    let verdict = ground.loadtest(&[&args[..], &["--database-url", &url]].concat()).await.unwrap();
    assert_eq!(verdict, Verdict::Passed, "{}", loadtest::drive::report::text(&Run::load(&out).unwrap()));
    let gate = ["compare", baseline, text(&out), "--gate"];
    assert_eq!(ground.loadtest(&gate).await.unwrap(), Verdict::Passed);
    sqlx::raw_sql("delete from event").execute(&mut ground.sql().await).await.unwrap();
    let checked = ground.loadtest(&["check", text(&out), "--database-url", &url]).await.unwrap();
    assert_eq!((checked, ground.loadtest(&gate).await.unwrap()), (Verdict::Failed, Verdict::Failed));
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
    let mut rates: Vec<f64> = trials.iter().map(|trial| trial["rate"].as_f64().unwrap()).collect();
    // One in which chance let nothing arrive says nothing, and is made again.
    rates.dedup();
    assert_eq!(rates, [8.0, 4.0, 2.0, 1.0]);
    assert!(trials.iter().all(|trial| trial["errors"] == 0) && found["found_requests_per_second"].is_null(), "{found}");
    let mut conn = ground.sql().await;
    let rules = "select count(*) from coupon_rule_version where name like 'load %'";
    assert_eq!(sqlx::query_scalar::<_, i64>(rules).fetch_one(&mut conn).await.unwrap(), 2 * trials.len() as i64);
    let books = Books::open(&[out.with_extension("journal")], Vec::new(), Clock::system().now()).unwrap();
    let findings = check::examine(&mut conn, &books, Clock::system().now()).await.unwrap();
    assert!(broken(&findings).is_empty() && books.rules.len() == 2 * trials.len(), "{}", check::render(&findings));
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
