//! The walk along a month that is being put away: its coupons' index rows go, and their counts move to `retired`.
//!
//! Batch by batch, by key; each batch deletes and moves the counts of what it really deleted in one transaction, so that a
//! crash loses and doubles nothing. Nobody writes the rows walked: the fence is up.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::ddl::{Attached, DdlError, Locked, is_contention};
use super::expire::{PAUSE_BETWEEN_TRIES, Pace};
use super::plan::plan;
use super::router::Leaf;
use super::upkeep::remember;

const VOID: i16 = 3;
const DAY_SHIFT: u32 = 41;
/// Stands in the comment of a leaf whose index rows are being deleted, before the code reached.
const WALKED: &str = "tessera: retired up to ";
/// The walk is remembered every so many batches; what lies between is walked again and found empty.
const REMEMBER_BATCHES: u64 = 50;

/// Index rows deleted with a leaf, in this run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    pub coupons: u64,
    pub receive: u64,
    pub index: u64,
    pub history: u64,
}

/// The code that an earlier run reached, if there was one.
pub(super) fn reached(attached: &Attached) -> Option<i64> {
    attached.comment.as_deref()?.strip_prefix(WALKED)?.parse().ok()
}

/// Walks a fenced leaf from a code on.
///
/// # Errors
/// The first thing that can't be done; the next run goes on.
pub(super) async fn run(db: &mut Locked, leaf: Leaf, from: i64, pace: &Pace) -> Result<Walked, DdlError> {
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
    /// code → issuing store, 0 for none, and the bits of the stocks it was taken from
    taken: BTreeMap<i64, (i32, i16)>,
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
    let Some(last) = batch.taken.keys().next_back().copied() else { return Ok(None) };

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
    move_stock_counts(&mut tx, &index, &batch.taken).await?;
    tx.commit().await?;
    total.coupons += batch.taken.len() as u64;
    total.receive += receive.len() as u64;
    total.index += index.len() as u64;
    total.history += history;
    Ok(Some(last))
}

async fn read_batch(conn: &mut PgConnection, leaf: Leaf, reached: i64, rows: i64) -> Result<Batch, DdlError> {
    // The fence keeps these rows as they are, so they need no lock.
    let text = format!(
        "select code_id, rule_id, member_id, legacy_key, coalesce(issue_store_no, 0) as store_no, counted
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
        batch.taken.insert(code, (row.try_get("store_no")?, row.try_get("counted")?));
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

/// A coupon was counted in the rows that its bits name: its rule's, that of its issue day, that of its store.
async fn move_stock_counts(
    conn: &mut PgConnection,
    deleted: &[(i64, i64, i16)],
    taken: &BTreeMap<i64, (i32, i16)>,
) -> Result<(), DdlError> {
    let mut counts = BTreeMap::<(Leaf, i64, i32, i32), i64>::new();
    for (rule, code, _) in deleted.iter().filter(|(.., state)| *state != VOID) {
        let leaf = plan("coupon_stock").leaf_i64(*rule);
        let (store, bits) = taken.get(code).copied().unwrap_or_default();
        // The rule's own row counts every coupon.
        let rows = [(1, 0, 0), (bits & 2, (code >> DAY_SHIFT) as i32, 0), (bits & 4, 0, store)];
        for (_, period, store) in rows.into_iter().filter(|(counted, ..)| *counted != 0) {
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

fn unzip<K: Copy>(rows: &[(Leaf, K, i64)]) -> (Vec<K>, Vec<i64>) {
    rows.iter().map(|(_, key, code)| (*key, *code)).unzip()
}
