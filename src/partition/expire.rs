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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::ddl::{self, Attached, DdlError, Locked, fence_name, is_contention};
use super::plan::{Expire, Plan, Plans, plan};
use super::router::Leaf;
use super::upkeep::remember;

const VOID: i16 = 3;
const DAY_SHIFT: u32 = 41;
/// Stands in the comment of a leaf whose index rows are being deleted, before the code reached.
const WALKED: &str = "tessera: retired up to ";
/// The walk is remembered every so many batches; what lies between is walked again and found empty.
const REMEMBER_BATCHES: u64 = 50;
const PAUSE_BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// How hard the walk may work beside the tills.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub batch_rows: i64,
    pub pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch_rows: 1_000, pause: Duration::from_millis(20) }
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
    Kept {
        living: i64,
    },
    /// A fence of an earlier run was taken down: the leaf is not due.
    Unfenced,
}

/// Index rows deleted with a leaf, in this run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    pub coupons: u64,
    pub receive: u64,
    pub index: u64,
    pub history: u64,
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
            if due || walked_to(&attached).is_some() {
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

async fn retire(
    db: &mut Locked,
    leaf: Leaf,
    attached: &Attached,
    now: DateTime<Utc>,
    pace: &Pace,
) -> Result<Fate, DdlError> {
    let mut walked = Walked::default();
    if leaf.plan.table == "coupon" {
        let begun = walked_to(attached);
        if begun.is_none() {
            // Asked before the fence as well, so that a month with living coupons is not fenced each night for nothing.
            for fenced in [false, true] {
                if fenced {
                    fence(db, leaf).await?;
                }
                let living = living(db.conn(), leaf, now).await?;
                if living > 0 {
                    if fenced || attached.fenced {
                        unfence(db, leaf).await?;
                    }
                    return Ok(Fate::Kept { living });
                }
            }
        }
        walked = walk(db, leaf, begun.unwrap_or(i64::MIN), pace).await?;
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

async fn living(conn: &mut PgConnection, leaf: Leaf, now: DateTime<Utc>) -> Result<i64, DdlError> {
    let text = format!("select count(*) from {leaf} where state = 1 and valid_until > $1");
    Ok(sqlx::query_scalar(AssertSqlSafe(text)).bind(now).fetch_one(conn).await?)
}

/// The code that an earlier run reached, if there was one.
fn walked_to(attached: &Attached) -> Option<i64> {
    attached.comment.as_deref()?.strip_prefix(WALKED)?.parse().ok()
}

async fn walk(db: &mut Locked, leaf: Leaf, from: i64, pace: &Pace) -> Result<Walked, DdlError> {
    let mut total = Walked::default();
    let mut reached = from;
    // Before the first row goes: from here on the leaf has to be finished.
    remember(db, &leaf.to_string(), &format!("{WALKED}{reached}")).await?;
    // Statistics of young index tables would have them read as a whole for each batch.
    db.run("set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off").await?;
    for batch in 1_u64.. {
        let deadline = Instant::now() + db.patience();
        let last = loop {
            match walk_batch(db.conn(), leaf, reached, pace.batch_rows, &mut total).await {
                Err(DdlError::Database(error)) if is_contention(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE_BETWEEN_TRIES).await;
                }
                outcome => break outcome?,
            }
        };
        let Some(last) = last else { break };
        reached = last;
        if batch % REMEMBER_BATCHES == 0 {
            remember(db, &leaf.to_string(), &format!("{WALKED}{reached}")).await?;
        }
        tokio::time::sleep(pace.pause).await;
    }
    db.run("reset enable_seqscan; reset enable_hashjoin; reset enable_mergejoin").await?;
    Ok(total)
}

/// What a batch needs to know of each coupon.
#[derive(Default)]
struct Batch {
    /// (leaf of the index row, holder, code)
    receive: Vec<(Leaf, i64, i64)>,
    /// (leaf, rule, code)
    index: Vec<(Leaf, i64, i64)>,
    /// (leaf, legacy key, code)
    history: Vec<(Leaf, Uuid, i64)>,
    /// code → issuing store, 0 for none
    stores: BTreeMap<i64, i32>,
}

/// Deletes the index rows of the next coupons after `reached` and moves their counts, in one transaction. Returns the
/// last code, or None at the end of the leaf.
pub(super) async fn walk_batch(
    conn: &mut PgConnection,
    leaf: Leaf,
    reached: i64,
    rows: i64,
    total: &mut Walked,
) -> Result<Option<i64>, DdlError> {
    #[expect(clippy::disallowed_methods, reason = "upkeep has a connection of its own and answers no request")]
    let mut tx = conn.begin().await?;
    let batch = read_batch(&mut tx, leaf, reached, rows).await?;
    let Some(last) = batch.stores.keys().next_back().copied() else { return Ok(None) };

    let (keys, codes) = unzip(&batch.receive);
    let receive = sqlx::query_as::<_, (i64, i64, i64, i16)>(
        "delete from coupon_receive r using unnest($1::bigint[], $2::bigint[]) k (member_id, code_id)
         where r.member_id = k.member_id and r.code_id = k.code_id
         returning r.member_id, r.rule_id, r.code_id, r.state",
    )
    .bind(keys)
    .bind(codes)
    .fetch_all(&mut *tx)
    .await?;
    let (keys, codes) = unzip(&batch.index);
    let index = sqlx::query_as::<_, (i64, i64, i16)>(
        "delete from coupon_index i using unnest($1::bigint[], $2::bigint[]) k (rule_id, code_id)
         where i.rule_id = k.rule_id and i.code_id = k.code_id
         returning i.rule_id, i.code_id, i.state",
    )
    .bind(keys)
    .bind(codes)
    .fetch_all(&mut *tx)
    .await?;
    let (keys, codes) = unzip(&batch.history);
    let history = sqlx::query(
        "delete from coupon_history_index h using unnest($1::uuid[], $2::bigint[]) k (legacy_key, code_id)
         where h.legacy_key = k.legacy_key and h.code_id = k.code_id",
    )
    .bind(keys)
    .bind(codes)
    .execute(&mut *tx)
    .await?
    .rows_affected();

    move_member_counts(&mut tx, &receive).await?;
    move_stock_counts(&mut tx, &index, &batch.stores).await?;
    tx.commit().await?;
    total.coupons += batch.stores.len() as u64;
    total.receive += receive.len() as u64;
    total.index += index.len() as u64;
    total.history += history;
    Ok(Some(last))
}

async fn read_batch(conn: &mut PgConnection, leaf: Leaf, reached: i64, rows: i64) -> Result<Batch, DdlError> {
    // The fence keeps these rows as they are, so they need no lock.
    let text = format!(
        "select code_id, rule_id, member_id, legacy_key, coalesce(issue_store_no, 0) as store_no
         from {leaf} where code_id > $1 order by code_id limit $2"
    );
    let found = sqlx::query(AssertSqlSafe(text)).bind(reached).bind(rows).fetch_all(conn).await?;
    let mut batch = Batch::default();
    for row in &found {
        let (code, rule): (i64, i64) = (row.try_get("code_id")?, row.try_get("rule_id")?);
        batch.index.push((plan("coupon_index").leaf_i64(rule), rule, code));
        if let Some(member) = row.try_get::<Option<i64>, _>("member_id")? {
            batch.receive.push((plan("coupon_receive").leaf_i64(member), member, code));
        }
        if let Some(key) = row.try_get::<Option<Uuid>, _>("legacy_key")? {
            batch.history.push((plan("coupon_history_index").leaf_uuid(key), key, code));
        }
        batch.stores.insert(code, row.try_get("store_no")?);
    }
    batch.receive.sort_unstable();
    batch.index.sort_unstable();
    batch.history.sort_unstable();
    Ok(batch)
}

async fn move_member_counts(conn: &mut PgConnection, deleted: &[(i64, i64, i64, i16)]) -> Result<(), DdlError> {
    let mut counts = BTreeMap::<(Leaf, i64, i64), i32>::new();
    for (member, rule, _, _) in deleted.iter().filter(|(.., state)| *state != VOID) {
        *counts.entry((plan("member_rule").leaf_i64(*member), *member, *rule)).or_default() += 1;
    }
    let members: Vec<i64> = counts.keys().map(|(_, member, _)| *member).collect();
    let rules: Vec<i64> = counts.keys().map(|(.., rule)| *rule).collect();
    let locked: Vec<(i64, i64)> = sqlx::query_as(
        "select m.member_id, m.rule_id
         from unnest($1::bigint[], $2::bigint[]) with ordinality k (member_id, rule_id, at),
             lateral (
                 select r.member_id, r.rule_id from member_rule r
                 where r.member_id = k.member_id and r.rule_id = k.rule_id for update
             ) m",
    )
    .bind(&members)
    .bind(&rules)
    .fetch_all(&mut *conn)
    .await?;
    let locked: BTreeSet<_> = locked.into_iter().collect();
    if let Some((_, member, rule)) = counts.keys().find(|(_, member, rule)| !locked.contains(&(*member, *rule))) {
        return Err(DdlError::Inconsistent {
            table: "member_rule",
            key: format!("({member}, {rule})"),
            problem: "the member has coupons of the rule and no count",
        });
    }
    sqlx::query(
        "update member_rule r set retired = r.retired + k.moved
         from unnest($1::bigint[], $2::bigint[], $3::integer[]) k (member_id, rule_id, moved)
         where r.member_id = k.member_id and r.rule_id = k.rule_id",
    )
    .bind(&members)
    .bind(&rules)
    .bind(counts.into_values().collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// A coupon was counted in its rule's row (0, 0) and, where such rows are kept, in that of its issue day and store.
async fn move_stock_counts(
    conn: &mut PgConnection,
    deleted: &[(i64, i64, i16)],
    stores: &BTreeMap<i64, i32>,
) -> Result<(), DdlError> {
    let mut counts = BTreeMap::<(Leaf, i64, i32, i32), i64>::new();
    for (rule, code, _) in deleted.iter().filter(|(.., state)| *state != VOID) {
        let leaf = plan("coupon_stock").leaf_i64(*rule);
        let issued = ((code >> DAY_SHIFT) as i32, stores.get(code).copied().unwrap_or(0));
        for (period, store) in BTreeSet::from([(0, 0), issued]) {
            *counts.entry((leaf, *rule, period, store)).or_default() += 1;
        }
    }
    let rules: Vec<i64> = counts.keys().map(|(_, rule, ..)| *rule).collect();
    let periods: Vec<i32> = counts.keys().map(|(_, _, period, _)| *period).collect();
    let stores: Vec<i32> = counts.keys().map(|(.., store)| *store).collect();
    let locked: Vec<(i64, i32, i32)> = sqlx::query_as(
        "select s.rule_id, s.period, s.store_no
         from unnest($1::bigint[], $2::integer[], $3::integer[]) with ordinality k (rule_id, period, store_no, at),
             lateral (
                 select t.rule_id, t.period, t.store_no from coupon_stock t
                 where t.rule_id = k.rule_id and t.period = k.period and t.store_no = k.store_no for update
             ) s",
    )
    .bind(&rules)
    .bind(&periods)
    .bind(&stores)
    .fetch_all(&mut *conn)
    .await?;
    let locked: BTreeSet<_> = locked.into_iter().collect();
    let whole = |(_, rule, period, store): &&(Leaf, i64, i32, i32)| {
        (*period, *store) == (0, 0) && !locked.contains(&(*rule, 0, 0))
    };
    if let Some((_, rule, ..)) = counts.keys().find(whole) {
        return Err(DdlError::Inconsistent {
            table: "coupon_stock",
            key: format!("({rule}, 0, 0)"),
            problem: "the rule has coupons and no count",
        });
    }
    sqlx::query(
        "update coupon_stock t set retired = t.retired + k.moved
         from unnest($1::bigint[], $2::integer[], $3::integer[], $4::bigint[]) k (rule_id, period, store_no, moved)
         where t.rule_id = k.rule_id and t.period = k.period and t.store_no = k.store_no",
    )
    .bind(&rules)
    .bind(&periods)
    .bind(&stores)
    .bind(counts.into_values().collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
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

fn unzip<K: Copy>(rows: &[(Leaf, K, i64)]) -> (Vec<K>, Vec<i64>) {
    rows.iter().map(|(_, key, code)| (*key, *code)).unzip()
}
