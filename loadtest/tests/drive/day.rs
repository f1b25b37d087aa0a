//! A midnight under load, by a clock that the node, the tills and upkeep share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{Datelike, Months, NaiveDate, TimeDelta};
use clap::Parser;
use loadtest::drive::{
    check,
    journal::Journal,
    report,
    run::{Aim, AimArgs, drive},
    stop::Stop,
};
use tessera::{
    clock::{Clock, Zone},
    id::Day,
    partition::upkeep::Report,
};

use super::support::{Ground, broken, text};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    aim: AimArgs,
}

fn today(clock: &Clock) -> NaiveDate {
    Zone::DEFAULT.day_of(clock.now()).to_date()
}

/// Upkeep again and again, as every node does, until it has been done on the day; what it did before that day, and on it.
async fn keep_up(ground: &Ground, clock: &Clock, day: NaiveDate) -> (Vec<Report>, Vec<Report>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    while after.is_empty() {
        let is_after = today(clock) == day;
        let done = ground.upkeep(clock, None).await;
        if is_after { &mut after } else { &mut before }.push(done);
    }
    (before, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_ends_at_midnight_under_load_while_upkeep_makes_and_retires_leaves() {
    let (ground, clock) = (Ground::make(2).await, Clock::system());
    let next = today(&clock).with_day(1).unwrap() + Months::new(1);
    let midnight = Zone::DEFAULT.start_of(Day::from_date(next));
    let set = |left: TimeDelta| clock.set_offset_ms((midnight - left - clock.raw_now()).num_milliseconds());
    set(TimeDelta::hours(1));
    ground.upkeep(&clock, None).await;
    let node = ground.node_at(clock.clone()).await;
    let workload = ground.small_but("soak", |workload| {
        (workload.rate, workload.seconds, workload.tills) = (40.0, 3_600.0, 8);
        workload.prepare.coupons = Some(2_000);
    });
    let keys = ground.path("keys");
    let args = ["load", "--workload", &workload, "--url", &node.url, "--keys", text(&keys), "--allow-debug"];
    let mut aim = Aim::take(&Cli::parse_from(args).aim, (0, 1)).await.unwrap();
    aim.clock = clock.clone();
    let journal = Journal::create(&ground.path("a.journal")).unwrap();
    let (world, _) = aim.prepare("day", &mut journal.pen()).await.unwrap();
    set(TimeDelta::seconds(5));
    let (stopper, stop) = Stop::new();
    let is_over = Arc::new(AtomicBool::new(false));
    let loading = async {
        let (run, _) = drive(&aim, "day", Arc::new(world), &journal, None, &stop).await.unwrap();
        is_over.store(true, Ordering::Relaxed);
        run
    };
    let keeping = async {
        let reports = keep_up(&ground, &clock, next).await;
        assert!(!is_over.load(Ordering::Relaxed), "tills were at work all the time");
        // Some of the new day's work on the leaves as they are now.
        sell(&ground, next, 20).await;
        tokio::select! {
            () = stopper.stop(Duration::from_secs(60)) => {}
            () = over(&is_over) => {}
        }
        reports
    };
    let (mut run, (before, after)) = tokio::join!(loading, keeping);
    run.journals.push(journal.path.clone());
    journal.close().unwrap();
    assert!(run.record.failures() == 0 && run.failures().is_empty(), "{}", report::text(&run));
    let mut conn = ground.sql().await;
    let findings = check::examine(&mut conn, &check::books_of(&run).unwrap(), clock.now()).await.unwrap();
    assert!(broken(&findings).is_empty(), "{}", check::render(&findings));
    // The day that came has made leaves that the day before had not, and those that it is too late for are gone.
    let names = |leaves: &[Report], of: &str| -> Vec<String> {
        let made = leaves.iter().flat_map(|report| report.created.iter().map(ToString::to_string));
        made.filter(|name| name.starts_with(of)).collect()
    };
    let retired = |leaves: &[Report], of: &str| {
        leaves.iter().flat_map(|report| &report.expired).any(|retired| retired.leaf.to_string().starts_with(of))
    };
    // Those of months were made on the eve of the day: upkeep looks a day further than its own.
    for table in ["request_", "event_"] {
        assert!(names(&before, table).is_empty() && !names(&after, table).is_empty(), "{table}: {after:?}");
        assert!(!retired(&before, table) && retired(&after, table), "{table}: {after:?}");
    }
    // The tills' day went with the clock: ledger, coupons and numbers have rows on both sides of it.
    let eve = Day::from_date(next).plus(-1);
    for (table, is_new) in [
        ("redemption", format!("redemption_id >= {}", eve.first_id())),
        ("coupon", format!("code_id >= {}", eve.first_id())),
        ("request", format!("day >= '{eve}'")),
    ] {
        let sql = format!("select count(distinct tableoid) from {table} where {is_new}");
        let leaves: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
        assert_eq!(leaves, 2, "{table}");
    }
}

/// Waits until so many more uses of the day stand in the ledger.
async fn sell(ground: &Ground, day: NaiveDate, more: i64) {
    let (mut conn, first) = (ground.sql().await, Day::from_date(day).first_id());
    let mut count = async || {
        let sold = sqlx::query_scalar::<_, i64>("select count(*) from redemption where redemption_id >= $1");
        sold.bind(first).fetch_one(&mut conn).await.unwrap()
    };
    let until = count().await + more;
    while count().await < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn over(is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
