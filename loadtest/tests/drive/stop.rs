//! A load that is stopped before its end, as a process of its own.

use std::process::{ExitStatus, Stdio};

use loadtest::drive::{check, result::Run, workload::Workload};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use super::support::{Ground, broken, signal, text};

/// `loadtest run` for an hour.
struct Running {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Running {
    async fn start(ground: &Ground, url: &str, change: impl FnOnce(&mut Workload)) -> Self {
        let workload = ground.small_but("soak", |workload| {
            (workload.rate, workload.seconds, workload.tills) = (40.0, 3_600.0, 8);
            workload.prepare.coupons = Some(2_000);
            change(workload);
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["run", "--workload", &workload, "--url", url, "--database-url", &ground.url()])
            .args(["--keys", text(&ground.path("keys")), "--out", text(&ground.path("a.json"))])
            .args(["--allow-debug", "--lateness-max", "60000"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut running = Self { child, said };
        running.says("running").await;
        // Now there is something to keep.
        let mut conn = ground.sql().await;
        let sold = "select exists (select from redemption)";
        while !sqlx::query_scalar::<_, bool>(sold).fetch_one(&mut conn).await.unwrap() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        running
    }

    async fn says(&mut self, what: &str) {
        let mut all = Vec::new();
        while let Some(line) = self.said.next_line().await.unwrap() {
            if line.contains(what) {
                return;
            }
            all.push(line);
        }
        panic!("it ended without saying {what:?}: {all:?}");
    }

    fn signal(&self, what: &str) {
        signal(what, self.child.id().unwrap().cast_signed());
    }

    async fn ended(mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_keeps_what_it_measured_with_its_books_and_says_that_it_was_stopped() {
    let ground = Ground::make(2).await;
    let node = ground.node().await;
    // A job beside the tills is under way: it is cancelled, and counts for what it made.
    let long_job = |workload: &mut Workload| (workload.jobs.every_seconds, workload.jobs.coupons) = (600.0, 200_000);
    let mut running = Running::start(&ground, &node.url, long_job).await;
    running.signal("-TERM");
    running.says("stopping").await;
    assert_eq!(running.ended().await.code(), Some(3));
    let run = Run::load(&ground.path("a.json")).unwrap();
    let (shown, findings) = (loadtest::drive::report::text(&run), run.findings.clone().unwrap());
    let after = run.interrupted.unwrap().after_seconds;
    assert!(after > 0.0 && after < 3_000.0 && run.record.requests() > 0, "{shown}");
    assert!(run.failures().is_empty() && run.record.failures() == 0, "{shown}");
    assert!(broken(&findings).is_empty(), "{}", check::render(&findings));
    let looked = |name: &str| findings.iter().any(|finding| finding.name == name && finding.looked_at > 0);
    assert!(looked("acknowledged") && looked("locks-kept") && looked("jobs"), "{}", check::render(&findings));
    assert!(run.notes.iter().any(|note| note.contains("1 issue jobs made")), "{shown}");
    let page = std::fs::read_to_string(ground.path("a.html")).unwrap();
    assert!(page.contains("stopped after") && page.contains("Interrupted, and nothing wrong until then"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_told_twice_ends_at_once() {
    let ground = Ground::make(1).await;
    let node = ground.node().await;
    let mut running = Running::start(&ground, &node.url, |_| {}).await;
    // Neither can what is in flight end nor the books be looked at.
    let mut conn = ground.sql().await;
    sqlx::raw_sql("begin; lock table coupon in access exclusive mode").execute(&mut conn).await.unwrap();
    running.signal("-INT");
    running.says("stopping").await;
    running.signal("-INT");
    running.says("ended at once").await;
    assert_eq!(running.ended().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_is_stopped_keeps_its_trials_and_looks_at_their_books() {
    let ground = Ground::make(1).await;
    let node = ground.node().await;
    let workload = ground.small_but("soak", |workload| (workload.tills, workload.prepare.coupons) = (8, Some(500)));
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["find", "--workload", &workload, "--url", &node.url, "--database-url", &ground.url()])
        .args(["--keys", text(&ground.path("keys")), "--out", text(&ground.path("find.json")), "--allow-debug"])
        // Kept whatever the machine does, and so gone on with.
        .args(["--p99", "60000", "--trial", "1", "--from", "20", "--lateness-max", "60000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut all, mut is_told) = (Vec::new(), false);
    while let Some(line) = said.next_line().await.unwrap() {
        // Once: a second one would end it at once.
        if line.trim_end().ends_with("yes") && !std::mem::replace(&mut is_told, true) {
            signal("-INT", child.id().unwrap().cast_signed());
        }
        all.push(line);
    }
    assert_eq!(child.wait().await.unwrap().code(), Some(3), "{all:?}");
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(ground.path("find.json")).unwrap()).unwrap();
    assert_eq!(kept["interrupted"], true, "{kept}");
    assert_eq!(kept["trials"][0]["outcome"], "kept", "{kept}");
    assert!(all.iter().any(|line| line.contains("acknowledged")), "{all:?}");
}
