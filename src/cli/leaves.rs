//! `tessera partitions` and `tessera retire`: leaves made, looked after and put away by hand.

use std::{collections::BTreeSet, time::Duration};

use chrono::{Months, NaiveDate};
use clap::{Args, Subcommand};

use super::Failure;
use crate::{
    boot::{self, Ground},
    clock::{Clock, Zone},
    config::Settings,
    partition::{
        self, Closed, Leaf, Locked, Plans,
        expire::{self, Alive, Fate, Pace, Retired},
        plan,
        upkeep::{self, Past},
    },
};

/// How long a command waits for the upkeep lock.
const UPKEEP_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum PartitionsCommand {
    /// How far the leaves of each table reach.
    List,
    /// Make the leaves that are missing, build and mend indexes, gather statistics, freeze, expire.
    Upkeep {
        /// Also make leaves of the past, from this day or month on.
        #[arg(long, value_parser = parse_day, value_name = "YYYY-MM[-DD]")]
        from: Option<NaiveDate>,
    },
    /// Make leaves of the past, for rows of an older system, and do nothing else.
    Make {
        /// From this day or month on.
        #[arg(long, value_parser = parse_day, value_name = "YYYY-MM[-DD]")]
        from: NaiveDate,
        /// Up to this day or month, exclusive; up to today if absent.
        #[arg(long, value_parser = parse_day, value_name = "YYYY-MM[-DD]")]
        until: Option<NaiveDate>,
        /// Only of these tables, by comma.
        #[arg(long, value_delimiter = ',', value_name = "TABLE")]
        tables: Vec<String>,
    },
    /// Retire the leaves whose time is over.
    Expire,
}

#[derive(Debug, Args)]
pub(super) struct RetireArgs {
    /// The month in which the coupons were issued.
    #[arg(long, value_parser = parse_month, value_name = "YYYY-MM")]
    month: NaiveDate,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Coupons whose index rows go in one transaction.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=100_000), value_name = "N")]
    batch_rows: i64,
    /// Milliseconds between two of them, for the tills.
    #[arg(long, default_value_t = 20, value_name = "MS")]
    pause_ms: u64,
}

pub(super) async fn partitions(
    command: &PartitionsCommand,
    ground: &Ground,
    settings: &Settings,
    clock: &Clock,
    zone: Zone,
) -> Result<(), Failure> {
    let now = clock.now();
    let today = zone.day_of(now).to_date();
    let plans = settings.partitions.plans();
    let pace = Pace::of_window(settings.chain.request_days_back);
    let ask = |past, leaves_only| upkeep::Ask { today, now, past, leaves_only, pace };
    match command {
        PartitionsCommand::List => {
            let mut conn = boot::connect(ground, settings).await?;
            print_ahead(&upkeep::ahead(&mut conn, plans, today).await?);
            boot::disconnect(conn).await;
        }
        PartitionsCommand::Upkeep { from } => {
            let past = from.map(|from| Past { from, until: None, tables: Vec::new() });
            let report = keep(ground, plans, &ask(past, false)).await?;
            for index in &report.indexes_built {
                println!("built {index}");
            }
            report.expired.iter().for_each(print_fate);
            print_ahead(&report.ahead);
            if report.ahead.iter().any(|table| !table.enough) {
                return Err(Failure("not every table has the leaves its plan asks for; see above".to_owned()));
            }
        }
        PartitionsCommand::Make { from, until, tables } => {
            let unknown = tables.iter().find(|table| plans.get(table).is_none_or(|plan| plan.range().is_none()));
            if let Some(table) = unknown {
                return Err(Failure(format!("{table} is no table that is split by days or months")));
            }
            let past = Past { from: *from, until: *until, tables: tables.clone() };
            let report = keep(ground, plans, &ask(Some(past), true)).await?;
            println!("{} leaves made, {} there already", report.created.len(), report.existing);
            tell_short_lived(plans, today, *from, tables);
        }
        PartitionsCommand::Expire => {
            let mut locked = Locked::open(&ground.owner, plans, UPKEEP_PATIENCE).await?;
            let retired = expire::run(&mut locked, plans, today, now, &pace).await?;
            locked.close().await?;
            println!("{} leaves were due", retired.len());
            retired.iter().for_each(print_fate);
        }
    }
    Ok(())
}

async fn keep(ground: &Ground, plans: &Plans, ask: &upkeep::Ask) -> Result<upkeep::Report, Failure> {
    let mut locked = Locked::open(&ground.owner, plans, UPKEEP_PATIENCE).await?;
    let report = upkeep::run(&mut locked, plans, ask).await?;
    locked.close().await?;
    for leaf in report.created.iter().chain(&report.picked_up) {
        println!("made {leaf}");
    }
    for leaf in &report.retired_before {
        println!("{leaf} was put away before and is not made again");
    }
    Ok(report)
}

/// Says which tables will not keep what was asked for.
fn tell_short_lived(plans: &Plans, today: NaiveDate, from: NaiveDate, tables: &[String]) {
    for plan in plans.iter().filter(|plan| tables.is_empty() || tables.contains(&plan.table)) {
        let Some(retain) = plan.range().and_then(|range| range.retain) else { continue };
        let table = &plan.table;
        match upkeep::first_kept(plan, today) {
            Some(first) if first > plan.leaf_date(from) => {
                println!("{table} is kept for {retain}: none was made before {first} (see --retain)");
            }
            None if retain.cutoff(today) > from => {
                println!(
                    "{table} is kept for {retain}: what is put there is retired by the next upkeep (see --retain)"
                );
            }
            _ => {}
        }
    }
}

pub(super) async fn retire(
    args: &RetireArgs,
    ground: &Ground,
    settings: &Settings,
    clock: &Clock,
    zone: Zone,
) -> Result<(), Failure> {
    let now = clock.now();
    let coupons = plan("coupon");
    let leaf = coupons.leaf_date(args.month);
    let behind = coupons.range().map_or(1, |range| range.behind as i32);
    let first_open = coupons.leaf_date(zone.day_of(now).to_date()).step(-behind);
    if leaf >= first_open {
        return Err(Failure(format!("coupons are still issued in {leaf}; {first_open} and later months stay")));
    }
    let mut conn = boot::connect(ground, settings).await?;
    let window = Pace::of_window(settings.chain.request_days_back);
    let survey = expire::survey(&mut conn, leaf, now, window.late_days).await?;
    let traces = partition::closed(&mut conn, &BTreeSet::from([leaf])).await?.remove(&leaf);
    boot::disconnect(conn).await;
    if args.dry_run {
        return match survey {
            None => Err(Failure(absent(leaf, traces))),
            Some(survey) if survey.alive != Alive::default() => {
                println!("{leaf} has {} coupons; {}", survey.coupons, stays(survey.alive));
                Ok(())
            }
            Some(survey) => {
                println!("{leaf} has {} coupons, none of them alive: it can be put away", survey.coupons);
                Ok(())
            }
        };
    }
    let plans = settings.partitions.plans();
    let pace = Pace { batch_rows: args.batch_rows, pause: Duration::from_millis(args.pause_ms), ..window };
    let mut locked = Locked::open(&ground.owner, plans, UPKEEP_PATIENCE).await?;
    let fate = expire::month(&mut locked, leaf, now, &pace).await?;
    // Another process may have come first.
    let traces = partition::closed(locked.conn(), &BTreeSet::from([leaf])).await.map_err(Failure::from)?.remove(&leaf);
    locked.close().await?;
    match fate {
        Some(Fate::Kept(alive)) => Err(Failure(format!("{leaf} {}", stays(alive)))),
        Some(fate) => {
            print_fate(&Retired { leaf: leaf.to_string(), fate });
            Ok(())
        }
        None if traces == Some(Closed::Retired) => {
            println!("{}", absent(leaf, traces));
            Ok(())
        }
        None => Err(Failure(absent(leaf, traces))),
    }
}

fn absent(leaf: Leaf, traces: Option<Closed>) -> String {
    match traces {
        Some(Closed::Retired) => format!("{leaf} was put away before"),
        _ => format!("there is no {leaf}"),
    }
}

fn stays(alive: Alive) -> String {
    let Alive { valid, reversible } = alive;
    format!("stays: {valid} coupons can still be used, and {reversible} have a use that can still be taken back")
}

fn print_fate(retired: &Retired) {
    let leaf = &retired.leaf;
    match retired.fate {
        Fate::Detached(walked) => println!(
            "{leaf} is put away: {} coupons, and their rows by member ({}), by rule ({}) and by old code ({}) are gone",
            walked.coupons, walked.receive, walked.index, walked.history
        ),
        Fate::Dropped => println!("{leaf} is dropped"),
        Fate::Kept(alive) => println!("{leaf} {}", stays(alive)),
        Fate::Unfenced => println!("{leaf} is open again: it is not due"),
    }
}

fn print_ahead(tables: &[upkeep::Ahead]) {
    for table in tables {
        let state = if table.enough { "ok" } else { "NOT ENOUGH" };
        match (table.leaves, &table.missing) {
            (Some(leaves), Some(missing)) => {
                println!("{:24} {state:10} {leaves} ahead, first missing {missing}", table.table);
            }
            (None, Some(missing)) => println!("{:24} {state:10} {missing} is missing", table.table),
            (_, None) => println!("{:24} {state:10} complete", table.table),
        }
    }
}

/// `2017-01` is the first of that month.
fn parse_day(text: &str) -> Result<NaiveDate, String> {
    let day = if text.len() == "2017-01".len() { format!("{text}-01") } else { text.to_owned() };
    day.parse().map_err(|_| "it is neither a month like 2017-01 nor a day like 2017-01-15".to_owned())
}

fn parse_month(text: &str) -> Result<NaiveDate, String> {
    let first = format!("{text}-01")
        .parse::<NaiveDate>()
        .ok()
        .filter(|first| first.checked_add_months(Months::new(1)).is_some());
    first.ok_or_else(|| "it is no month like 2023-04".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_its_first_day() {
        let day = |year, month, day| NaiveDate::from_ymd_opt(year, month, day).expect("a day");
        assert_eq!(parse_day("2017-01"), Ok(day(2017, 1, 1)));
        assert_eq!(parse_day("2017-01-15"), Ok(day(2017, 1, 15)));
        assert!(parse_day("January").is_err());
        assert_eq!(parse_month("2023-04"), Ok(day(2023, 4, 1)));
        assert!(parse_month("2023-04-01").is_err() && parse_month("2023-13").is_err());
    }
}
