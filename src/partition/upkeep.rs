//! Upkeep: leaves in time, indexes on all of them, statistics of the parents, and the old ones gone.
//!
//! Every part can be repeated and picks up what a crash left. Nothing here waits for a lock in a queue (see `ddl`).
//! Leaves come first, since a missing leaf is an outage and the rest is not.

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::ddl::{self, Attached, DdlError, LeafOutcome, Locked};
use super::expire::{self, Pace, Retired};
use super::plan::{Expire, Plan, Plans, Step};
use super::router::Leaf;

/// Autovacuum never analyses a parent; its statistics change slowly.
const ANALYSE_EVERY_HOURS: i64 = 24;
/// `vacuum (freeze)` reads a whole leaf: a few in each run.
const FREEZE_LEAVES_MAX: usize = 2;
/// Rows of `redemption_late` that one statement forgets.
const LATE_ROWS: i64 = 1_000;
const FROZEN: &str = "tessera: frozen";
const IDENTIFIER_BYTES_MAX: usize = 63;

/// What is asked of one run.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The business day. The leaves around it are made one step further than the plan says, for the day that UTC, a
    /// store of another zone or a till with tomorrow's business date is in.
    pub today: NaiveDate,
    pub now: DateTime<Utc>,
    /// Leaves of the past that are made besides.
    pub past: Option<Past>,
    /// Leaves, rights and indexes only: no statistics, no freezing, no expiry. For a database that is just being made.
    pub leaves_only: bool,
    pub pace: Pace,
}

/// Days of the past, for rows of an older system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub from: NaiveDate,
    /// Exclusive; up to the usual leaves if absent.
    pub until: Option<NaiveDate>,
    /// All range tables if empty.
    pub tables: Vec<String>,
}

/// What a run did, and what it found.
#[derive(Debug, Default)]
pub struct Report {
    pub created: Vec<Leaf>,
    pub picked_up: Vec<Leaf>,
    pub existing: usize,
    /// Asked for, but retired long ago.
    pub retired_before: Vec<Leaf>,
    pub granted: Vec<Leaf>,
    pub indexes_dropped: Vec<String>,
    pub indexes_built: Vec<String>,
    /// Leaves that got their foreign key.
    pub referring: Vec<Leaf>,
    pub analysed: Vec<String>,
    pub frozen: Vec<Leaf>,
    pub expired: Vec<Retired>,
    /// Rows of `redemption_late` whose conflicts are put away.
    pub late_forgotten: u64,
    pub ahead: Vec<Ahead>,
}

/// How far the leaves of a table reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    pub table: String,
    /// Leaves without a gap after today's; None for a hash table, or when today's own is missing.
    pub leaves: Option<u32>,
    pub step: Option<Step>,
    /// The first leaf that is not there; None for a complete hash table.
    pub missing: Option<Leaf>,
    /// The plan is kept: enough ahead, or complete.
    pub enough: bool,
}

/// Brings the partitions to what the plans ask for.
///
/// # Errors
/// The first thing that can't be done; what was done stays done.
pub async fn run(db: &mut Locked, plans: &Plans, ask: &Ask) -> Result<Report, DdlError> {
    let mut report = Report::default();
    for plan in plans.iter() {
        ensure(db, plan, ask, &mut report).await?;
    }
    for name in invalid_indexes(db.conn(), plans).await? {
        db.run(&format!("drop index concurrently if exists {name}")).await?;
        report.indexes_dropped.push(name);
    }
    build_indexes(db, plans, &mut report).await?;
    for plan in plans.iter() {
        refer(db, plan, plans, &mut report).await?;
    }
    if !ask.leaves_only {
        for plan in plans.iter() {
            analyse(db, plan, &mut report).await?;
        }
        report.expired = expire::run(db, plans, ask.today, ask.now, &ask.pace).await?;
        report.late_forgotten = forget_late(db, plans, ask.today).await?;
        for plan in plans.iter() {
            freeze(db, plan, ask.today, &mut report).await?;
        }
    }
    report.ahead = ahead(db.conn(), plans, ask.today).await?;
    Ok(report)
}

/// Forgets keys of items that no leaf had a place for, with the conflicts that they were answered with. They have no leaves
/// of their own: a key must be found whatever day it is sent on.
async fn forget_late(db: &mut Locked, plans: &Plans, today: NaiveDate) -> Result<u64, DdlError> {
    let conflicts = plans.get("redemption_conflict").and_then(|plan| plan.range());
    let Some(retain) = conflicts.and_then(|range| range.retain) else { return Ok(0) };
    // As whole months go, and a day later, so that none is forgotten before its conflict: a month ends by the chain's zone.
    let first = retain.cutoff(today).with_day(1).and_then(|day| day.pred_opt());
    let Some(before) = first.and_then(|day| day.and_hms_opt(0, 0, 0)).map(|at| at.and_utc()) else { return Ok(0) };
    let mut forgotten = 0;
    loop {
        let deleted = sqlx::query(
            "delete from redemption_late l using (
                 select f.key from redemption_late f where f.recorded_at < $1 order by f.recorded_at limit $2
             ) as old where l.key = old.key",
        )
        .bind(before)
        .bind(LATE_ROWS)
        .execute(db.conn())
        .await?;
        if deleted.rows_affected() == 0 {
            return Ok(forgotten);
        }
        forgotten += deleted.rows_affected();
    }
}

/// How far the leaves reach: the alarm before the outage. Any role may ask.
///
/// # Errors
/// Those of the catalogue query.
pub async fn ahead(conn: &mut PgConnection, plans: &Plans, today: NaiveDate) -> Result<Vec<Ahead>, DdlError> {
    let mut found = Vec::new();
    for plan in plans.iter() {
        let leaves: Vec<Leaf> = ddl::attached(conn, plan).await?.iter().filter_map(|attached| attached.leaf).collect();
        found.push(reach(plan, &leaves, today));
    }
    Ok(found)
}

fn reach(plan: &'static Plan, leaves: &[Leaf], today: NaiveDate) -> Ahead {
    let table = plan.table.clone();
    let Some(range) = plan.range() else {
        let missing = plan.hash_leaves().find(|leaf| !leaves.contains(leaf));
        return Ahead { table, leaves: None, step: None, missing, enough: missing.is_none() };
    };
    let mut next = plan.leaf_date(today);
    let mut count = None;
    while leaves.contains(&next) {
        count = Some(count.map_or(0, |count: u32| count + 1));
        next = next.step(1);
    }
    let enough = count.is_some_and(|count| count >= range.ahead);
    Ahead { table, leaves: count, step: Some(range.step), missing: Some(next), enough }
}

/// The leaves that a plan wants to exist.
fn wanted(plan: &'static Plan, today: NaiveDate, past: Option<&Past>) -> Vec<Leaf> {
    let Some(range) = plan.range() else { return plan.hash_leaves().collect() };
    let current = plan.leaf_date(today);
    let usual = current.step(-(range.behind as i32));
    // The day after the business day may lie in the next leaf already.
    let last = plan.leaf_date(today + TimeDelta::days(1)).step(range.ahead as i32);
    let asked = past.filter(|past| past.tables.is_empty() || past.tables.contains(&plan.table));
    let asked = asked.map_or(0..0, |past| {
        let from = plan.leaf_date(past.from).max(first_kept(plan, today).unwrap_or(Leaf { plan, no: i32::MIN }));
        let until = past.until.and_then(|until| until.pred_opt()).map_or(usual, |last| plan.leaf_date(last).step(1));
        from.no..until.no.min(usual.no)
    });
    asked.chain(usual.no..=last.no).map(|no| Leaf { plan, no }).collect()
}

/// The first leaf that it makes sense to make: what is only kept for a while and then dropped is not made for longer ago.
/// What is detached is, since old coupons are imported into it.
pub fn first_kept(plan: &'static Plan, today: NaiveDate) -> Option<Leaf> {
    let range = plan.range().filter(|range| range.expire == Expire::Drop)?;
    Some(plan.leaf_date(range.retain?.cutoff(today)))
}

async fn ensure(db: &mut Locked, plan: &'static Plan, ask: &Ask, report: &mut Report) -> Result<(), DdlError> {
    let attached = ddl::attached(db.conn(), plan).await?;
    for leaf in attached.iter().filter(|attached| !attached.granted).filter_map(|attached| attached.leaf) {
        ddl::grant(db, leaf).await?;
        report.granted.push(leaf);
    }
    for leaf in wanted(plan, ask.today, ask.past.as_ref()) {
        if attached.iter().any(|attached| attached.leaf == Some(leaf)) {
            report.existing += 1;
            continue;
        }
        match ddl::create_leaf(db, leaf).await? {
            LeafOutcome::Created => report.created.push(leaf),
            LeafOutcome::PickedUp => report.picked_up.push(leaf),
            LeafOutcome::Existing => report.existing += 1,
            LeafOutcome::Retired => report.retired_before.push(leaf),
        }
    }
    Ok(())
}

fn tables(plans: &Plans) -> Vec<String> {
    plans.iter().map(|plan| plan.table.clone()).collect()
}

/// Indexes of leaves that a crashed build left behind. One that is attached belongs to its parent and stays.
async fn invalid_indexes(conn: &mut PgConnection, plans: &Plans) -> Result<Vec<String>, DdlError> {
    Ok(sqlx::query_scalar(
        "select i.indexrelid::regclass::text
         from pg_index i join pg_inherits h on h.inhrelid = i.indrelid
         where h.inhparent in (select to_regclass(t) from unnest($1::text[]) t) and not i.indisvalid
             and not exists (select from pg_inherits a where a.inhrelid = i.indexrelid)
         order by 1",
    )
    .bind(tables(plans))
    .fetch_all(conn)
    .await?)
}

/// A migration adds an index by `create index … on only <parent>`, which is quick and leaves it invalid. It becomes valid
/// when the last leaf has its part.
async fn build_indexes(db: &mut Locked, plans: &Plans, report: &mut Report) -> Result<(), DdlError> {
    let missing = sqlx::query(
        "select p.indexrelid::regclass::text as parent, x.relname::text as name,
             pg_get_indexdef(p.indexrelid) as definition, p.indisunique as uniq,
             t.relname::text as table, l.relname::text as leaf
         from pg_index p
             join pg_class x on x.oid = p.indexrelid
             join pg_class t on t.oid = p.indrelid
             join pg_inherits h on h.inhparent = p.indrelid and not h.inhdetachpending
             join pg_class l on l.oid = h.inhrelid
         where p.indrelid in (select to_regclass(t) from unnest($1::text[]) t)
             and not exists (select from pg_constraint k where k.conindid = p.indexrelid)
             and not exists (
                 select from pg_index c join pg_inherits a on a.inhrelid = c.indexrelid
                 where c.indrelid = l.oid and a.inhparent = p.indexrelid
             )
         order by t.relname, l.relname, x.relname",
    )
    .bind(tables(plans))
    .fetch_all(db.conn())
    .await?;
    for row in missing {
        let (parent, definition): (String, String) = (row.try_get("parent")?, row.try_get("definition")?);
        let (table, leaf): (String, String) = (row.try_get("table")?, row.try_get("leaf")?);
        let index = leaf_index_name(&table, &leaf, &row.try_get::<String, _>("name")?);
        let unique = if row.try_get("uniq")? { "unique " } else { "" };
        let Some(at) = definition.find(" USING ") else {
            return Err(DdlError::Foreign { leaf: parent, problem: format!("no method in {definition}") });
        };
        let using = &definition[at..];
        db.run_waiting(&format!("create {unique}index concurrently if not exists {index} on {leaf}{using}")).await?;
        db.run(&format!("alter index {parent} attach partition {index}")).await?;
        report.indexes_built.push(index);
    }
    Ok(())
}

/// Gives each leaf its foreign key to the leaf of the same number beside it. New rows are refused from the first step on;
/// those that are there are looked at in the second, which stands in nobody's way.
async fn refer(db: &mut Locked, plan: &'static Plan, plans: &Plans, report: &mut Report) -> Result<(), DdlError> {
    let Some(beside) = plan.beside.as_deref().and_then(|table| plans.get(table)) else { return Ok(()) };
    for leaf in plan.hash_leaves() {
        let (name, target) = (format!("{leaf}_{}_fk", beside.table), Leaf { plan: beside, no: leaf.no });
        let validated: Option<bool> = sqlx::query_scalar(
            "select k.convalidated from pg_constraint k
             where k.conrelid = to_regclass($1) and k.contype = 'f' and k.confrelid = to_regclass($2)",
        )
        .bind(leaf.to_string())
        .bind(target.to_string())
        .fetch_optional(db.conn())
        .await?;
        if validated == Some(true) {
            continue;
        }
        if validated.is_none() {
            let key = &plan.key;
            db.run(&format!(
                "alter table {leaf} add constraint {name} foreign key ({key}) references {target} ({key}) not valid"
            ))
            .await?;
        }
        db.run(&format!("alter table {leaf} validate constraint {name}")).await?;
        report.referring.push(leaf);
    }
    Ok(())
}

/// `redemption_code` on `redemption_m2026_11` is `redemption_m2026_11_code`.
fn leaf_index_name(table: &str, leaf: &str, index: &str) -> String {
    let suffix = index.strip_prefix(table).and_then(|rest| rest.strip_prefix('_')).unwrap_or(index);
    let mut name = format!("{leaf}_{suffix}");
    if name.len() > IDENTIFIER_BYTES_MAX {
        let digest = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as u32;
        name.truncate(IDENTIFIER_BYTES_MAX - 9);
        name = format!("{name}_{digest:08x}");
    }
    name
}

async fn analyse(db: &mut Locked, plan: &'static Plan, report: &mut Report) -> Result<(), DdlError> {
    let due: bool = sqlx::query_scalar(
        "select coalesce(last_analyze < statement_timestamp() - make_interval(hours => $2), true)
         from pg_stat_all_tables where relid = to_regclass($1)",
    )
    .bind(&plan.table)
    .bind(ANALYSE_EVERY_HOURS as i32)
    .fetch_optional(db.conn())
    .await?
    .unwrap_or(true);
    if due {
        db.run(&format!("analyze {}", plan.table)).await?;
        report.analysed.push(plan.table.clone());
    }
    Ok(())
}

/// Freezes closed leaves once, so that no later wraparound vacuum meets a year of them at a time. Leaves that are to be
/// dropped never reach that age.
async fn freeze(db: &mut Locked, plan: &'static Plan, today: NaiveDate, report: &mut Report) -> Result<(), DdlError> {
    let Some(range) = plan.range().filter(|range| range.expire == Expire::Detach || range.retain.is_none()) else {
        return Ok(());
    };
    let settled = today - TimeDelta::days(if range.step == Step::Day { 2 } else { 31 });
    let closed = |attached: &Attached| {
        let leaf = attached.leaf.filter(|leaf| leaf.end_day().is_some_and(|end| end <= settled));
        leaf.filter(|_| attached.comment.is_none() && !attached.fenced)
    };
    let leaves: Vec<Leaf> = ddl::attached(db.conn(), plan).await?.iter().filter_map(closed).collect();
    for leaf in leaves.into_iter().take(FREEZE_LEAVES_MAX.saturating_sub(report.frozen.len())) {
        db.run(&format!("vacuum (freeze) {leaf}")).await?;
        remember(db, &leaf.to_string(), &format!("{FROZEN} {today}")).await?;
        report.frozen.push(leaf);
    }
    Ok(())
}

/// Keeps a word about a leaf with the leaf, as its comment.
pub(super) async fn remember(db: &mut Locked, name: &str, word: &str) -> Result<(), DdlError> {
    let literal: String =
        sqlx::query_scalar(AssertSqlSafe("select quote_literal($1)")).bind(word).fetch_one(db.conn()).await?;
    db.run(&format!("comment on table {name} is {literal}")).await
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn names(leaves: &[Leaf]) -> Vec<String> {
        leaves.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn leaves_are_wanted_around_today_and_one_day_further() {
        let usual = wanted(plan("coupon"), day("2026-11-22"), None);
        assert_eq!(
            names(&usual),
            ["coupon_m2026_10", "coupon_m2026_11", "coupon_m2026_12", "coupon_m2027_01", "coupon_m2027_02"]
        );
        let last_of_month = wanted(plan("coupon"), day("2026-11-30"), None);
        assert_eq!(last_of_month.last().map(ToString::to_string).as_deref(), Some("coupon_m2027_03"));
        let past = |until: Option<&str>| Past {
            from: day("2017-01-15"),
            until: until.map(day),
            tables: vec!["coupon".to_owned(), "request".to_owned()],
        };
        assert_eq!(wanted(plan("coupon"), day("2026-11-22"), Some(&past(None))).len(), 9 * 12 + 11 + 3);
        let two_months = wanted(plan("coupon"), day("2026-11-22"), Some(&past(Some("2017-03-01"))));
        assert_eq!(names(&two_months[..3]), ["coupon_m2017_01", "coupon_m2017_02", "coupon_m2026_10"]);
        let usual_ones = wanted(plan("redemption"), day("2026-11-22"), None);
        assert_eq!(
            wanted(plan("redemption"), day("2026-11-22"), Some(&past(None))),
            usual_ones,
            "it was not asked for"
        );
        let days = wanted(plan("request"), day("2026-11-22"), Some(&past(None)));
        assert_eq!(
            days[0].first_day(),
            Some(day("2026-10-16")),
            "what is dropped after 37 days is not made for longer ago"
        );
        assert_eq!(wanted(plan("member"), day("2026-11-22"), None).len(), 16);
        let requests = wanted(plan("request"), day("2026-11-22"), None);
        assert_eq!(requests[0].first_day(), Some(day("2026-10-17")), "a request number is good for 35 days");
    }

    #[test]
    fn a_gap_is_the_next_missing_leaf() {
        let all = wanted(plan("event"), day("2026-11-22"), None);
        let reached = reach(plan("event"), &all, day("2026-11-22"));
        assert_eq!((reached.leaves, reached.enough), (Some(4), true));
        let late = reach(plan("event"), &all, day("2026-11-25"));
        assert_eq!((late.leaves, late.enough), (Some(1), false));
        assert_eq!(late.missing.map(|leaf| leaf.to_string()).as_deref(), Some("event_d2026_11_27"));
        assert_eq!(reach(plan("event"), &[], day("2026-11-25")).leaves, None);
        let hash: Vec<Leaf> = plan("member").hash_leaves().skip(1).collect();
        assert_eq!(reach(plan("member"), &hash, day("2026-11-22")).missing.map(|leaf| leaf.no), Some(0));
    }

    #[test]
    fn an_index_of_a_leaf_has_a_name_that_fits() {
        assert_eq!(leaf_index_name("redemption", "redemption_m2026_11", "redemption_code"), "redemption_m2026_11_code");
        assert_eq!(leaf_index_name("a", "a_h00", &"x".repeat(70)).len(), 63);
    }
}
