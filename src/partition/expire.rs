//! Expiry of a leaf, fenced.
//!
//! A prepared statement still writes into a leaf that was detached or renamed, so first a constraint that is never true
//! refuses every write of rows, by leaf and by parent, while reads, locks and deletes pass. Only then is there a point in
//! looking for coupons that are still alive: if there are any, the fence goes and the leaf stays. Else the index rows of
//! its coupons go with it, batch by batch; each batch deletes and moves the counts of what it really deleted into
//! `retired` in one transaction, so a crash loses and doubles nothing and the next run goes on. Then the leaf is renamed,
//! detached concurrently and kept as `<leaf>_retired`, or dropped.
//!
//! Once the first index row of a leaf may be gone (its comment says so) there is no way back, and every run goes on with
//! it whatever the plan says by then. A fence that a crash left before that point is taken down when the leaf is not due.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::ddl::{self, Attached, DdlError, Locked, fence_name, is_contention};
use super::plan::{Expire, Plan, Plans};
use super::router::Leaf;
use super::walk::{self, Walked};

pub(super) const PAUSE_BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// How hard the walk may work beside the tills, and how long it waits for those that are cut off.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub batch_rows: i64,
    pub pause: Duration,
    /// A till that was cut off sends its uses so many days later at most.
    pub late_days: i64,
}

impl Pace {
    /// Where request numbers are accepted so many days back: the day itself may be over elsewhere already.
    pub fn of_window(days_back: u16) -> Self {
        Self { batch_rows: 1_000, pause: Duration::from_millis(20), late_days: i64::from(days_back) + 1 }
    }
}

/// What became of a leaf whose time was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    pub leaf: String,
    pub fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Detached(Walked),
    Dropped,
    /// It stays, since coupons in it are alive.
    Kept(Alive),
    /// A fence of an earlier run was taken down: the leaf is not due.
    Unfenced,
}

/// Coupons of a month that somebody may still want something of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alive {
    /// Not spent, and valid, or not long enough over for a till that was cut off.
    pub valid: i64,
    /// With a use that their rule lets be taken back. A rule that sets no time does not keep them.
    pub reversible: i64,
}

/// What stands in a month of coupons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    pub coupons: i64,
    pub alive: Alive,
}

/// Retires what is over in all range tables, and completes what an earlier run began.
///
/// # Errors
/// The first thing that can't be done. Everything may be run again.
pub async fn run(
    db: &mut Locked,
    plans: &Plans,
    today: NaiveDate,
    now: DateTime<Utc>,
    pace: &Pace,
) -> Result<Vec<Retired>, DdlError> {
    let mut report = Vec::new();
    for plan in plans.iter() {
        let Some(range) = plan.range() else { continue };
        for attached in ddl::attached(db.conn(), plan).await? {
            let Some(leaf) = attached.leaf else {
                // Renamed by an earlier run, which did not come to the end.
                if attached.name.ends_with("_retired") {
                    detach(db, plan, &attached.name).await?;
                    report.push(Retired { leaf: attached.name, fate: Fate::Detached(Walked::default()) });
                }
                continue;
            };
            let due = range.retain.is_some_and(|retain| leaf.end_day().is_some_and(|end| end <= retain.cutoff(today)));
            let begun = walk::reached(&attached).is_some();
            // A leaf that was made for an import of old rows waits for them.
            let waits = due && !begun && range.expire == Expire::Detach && is_empty(db.conn(), leaf).await?;
            if begun || (due && !waits) {
                let fate = retire(db, leaf, &attached, now, pace).await?;
                report.push(Retired { leaf: attached.name, fate });
            } else if attached.fenced {
                unfence(db, leaf).await?;
                report.push(Retired { leaf: attached.name, fate: Fate::Unfenced });
            }
        }
        if range.expire == Expire::Drop {
            for name in retired_tables(db.conn(), plan).await? {
                db.run(&format!("drop table if exists {name}")).await?;
                let leaf = name.trim_end_matches("_retired").to_owned();
                report.retain(|retired| retired.leaf != leaf && retired.leaf != name);
                report.push(Retired { leaf, fate: Fate::Dropped });
            }
        }
    }
    Ok(report)
}

/// Retires one month of coupons, whatever the plan says of its age, or completes what an earlier run began. `None`: there is
/// no such leaf, or not any more.
///
/// # Errors
/// The first thing that can't be done. It may be run again.
pub async fn month(db: &mut Locked, leaf: Leaf, now: DateTime<Utc>, pace: &Pace) -> Result<Option<Fate>, DdlError> {
    for attached in ddl::attached(db.conn(), leaf.plan).await? {
        if attached.leaf == Some(leaf) {
            return Ok(Some(retire(db, leaf, &attached, now, pace).await?));
        }
        if attached.name == leaf.retired_name() {
            detach(db, leaf.plan, &attached.name).await?;
            return Ok(Some(Fate::Detached(Walked::default())));
        }
    }
    Ok(None)
}

/// Looks at a month of coupons without touching it. `None`: there is no such leaf.
///
/// # Errors
/// Those of the database.
pub async fn survey(
    conn: &mut PgConnection,
    leaf: Leaf,
    now: DateTime<Utc>,
    late_days: i64,
) -> Result<Option<Survey>, DdlError> {
    if !ddl::attached(conn, leaf.plan).await?.iter().any(|attached| attached.leaf == Some(leaf)) {
        return Ok(None);
    }
    let text = format!("select count(*) from {leaf}");
    let coupons = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut *conn).await?;
    Ok(Some(Survey { coupons, alive: alive(conn, leaf, now, late_days).await? }))
}

async fn retire(
    db: &mut Locked,
    leaf: Leaf,
    attached: &Attached,
    now: DateTime<Utc>,
    pace: &Pace,
) -> Result<Fate, DdlError> {
    let mut walked = Walked::default();
    if leaf.plan.table == "coupon" {
        let begun = walk::reached(attached);
        if begun.is_none() {
            // Asked before the fence as well, so that a month with living coupons is not fenced each night for nothing.
            for fenced in [false, true] {
                if fenced {
                    fence(db, leaf).await?;
                }
                let alive = alive(db.conn(), leaf, now, pace.late_days).await?;
                if alive != Alive::default() {
                    if fenced || attached.fenced {
                        unfence(db, leaf).await?;
                    }
                    return Ok(Fate::Kept(alive));
                }
            }
        }
        walked = walk::run(db, leaf, begun.unwrap_or(i64::MIN), pace).await?;
    } else {
        fence(db, leaf).await?;
    }
    let name = leaf.retired_name();
    db.run(&format!("alter table {leaf} rename to {name}")).await?;
    detach(db, leaf.plan, &name).await?;
    Ok(Fate::Detached(walked))
}

/// Refuses every write of a row to the leaf, through whatever statement, from here on.
pub(super) async fn fence(db: &mut Locked, leaf: Leaf) -> Result<(), DdlError> {
    let fence = fence_name(leaf);
    db.run(&format!(
        "alter table {leaf} drop constraint if exists {fence}; \
         alter table {leaf} add constraint {fence} check (false) not valid"
    ))
    .await
}

pub(super) async fn unfence(db: &mut Locked, leaf: Leaf) -> Result<(), DdlError> {
    db.run(&format!("alter table {leaf} drop constraint if exists {}", fence_name(leaf))).await
}

async fn is_empty(conn: &mut PgConnection, leaf: Leaf) -> Result<bool, DdlError> {
    let text = format!("select not exists (select from {leaf})");
    Ok(sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(conn).await?)
}

async fn alive(conn: &mut PgConnection, leaf: Leaf, now: DateTime<Utc>, late_days: i64) -> Result<Alive, DdlError> {
    // Hours, not days: a day of the session's zone is not always 24 of them, and one of a rule is.
    let text = format!(
        "with rows as (
             select
                 c.state = 1 and c.valid_until > $2 as valid,
                 c.uses > 0 and v.reverse_days is not null
                     and coalesce(c.redeemed_at, c.valid_until)
                         + make_interval(hours => 24 * least(v.reverse_days, 1000000)) >= $1 as reversible
             from {leaf} c
             left join coupon_rule_version v on v.rule_id = c.rule_id and v.version = c.rule_version
             where c.uses > 0 or (c.state = 1 and c.valid_until > $2)
         )
         select count(*) filter (where valid), count(*) filter (where reversible and not valid) from rows"
    );
    let (valid, reversible) =
        sqlx::query_as(AssertSqlSafe(text)).bind(now).bind(now - TimeDelta::days(late_days)).fetch_one(conn).await?;
    Ok(Alive { valid, reversible })
}

/// Detaches a renamed leaf, or goes on with a detachment that was begun: `concurrently` first marks it, and then waits
/// for everyone who may still see it, which can take longer than one run.
async fn detach(db: &mut Locked, plan: &'static Plan, name: &str) -> Result<(), DdlError> {
    let deadline = Instant::now() + db.patience();
    loop {
        let attached = ddl::attached(db.conn(), plan).await?;
        let Some(attached) = attached.iter().find(|attached| attached.name == name) else { return Ok(()) };
        let how = if attached.detaching { "finalize" } else { "concurrently" };
        let statement = format!("alter table {} detach partition {name} {how}", plan.table);
        match sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.conn()).await {
            Ok(_) => return Ok(()),
            Err(error) if is_contention(&error) && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE_BETWEEN_TRIES).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tables of retired leaves that are not attached any more.
async fn retired_tables(conn: &mut PgConnection, plan: &'static Plan) -> Result<Vec<String>, DdlError> {
    let names: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class
         where relkind = 'r' and not relispartition and relname like '%\\_retired' and pg_table_is_visible(oid)
         order by relname",
    )
    .fetch_all(conn)
    .await?;
    let ours = |name: &String| name.strip_suffix("_retired").is_some_and(|leaf| plan.leaf_of_name(leaf).is_some());
    Ok(names.into_iter().filter(ours).collect())
}
