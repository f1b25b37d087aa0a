//! The SQL of coupons, their index rows, counters and ledger.
//!
//! Lock order, here and wherever else these tables are written: request numbers (tried, not waited for: see
//! [`store`](crate::request::store)), `member_key`, `coupon`, `member`,
//! `coupon_receive`, `coupon_index`, `coupon_history_index`, `member_rule`, `coupon_stock`, `redemption`,
//! `redemption_conflict`, `event`; rows by (leaf, key). A base row and its index rows are written by `insert_coupons`,
//! `copy_coupons`, `bind_coupons` and `update_coupons` and by nothing else; those of old codes, which are claimed
//! first, by `claim_legacy`.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Coupon, Lock, State, Use,
    world::{LedgerKind, MemberRule, Redemption, Stock, StockKey},
};
use crate::{
    db::{
        lane::{Statement, Tx, WriteError, column, expect_rows},
        row::row_by_place,
    },
    id::{CodeId, MemberId, RedemptionId, RuleId, StoreNo},
    partition::{Leaf, Query, plan, query},
};

row_by_place! {
    /// A row of `coupon`, as `coupon/find` and `coupon/lock` bring it.
    pub(super) struct CouponRow {
        pub(super) code_id: CodeId,
        rule_id: RuleId,
        issued_at: DateTime<Utc>,
        valid_from: DateTime<Utc>,
        valid_until: DateTime<Utc>,
        member_id: Option<MemberId>,
        redemption_id: Option<RedemptionId>,
        redeemed_at: Option<DateTime<Utc>>,
        lock_until: Option<DateTime<Utc>>,
        legacy_key: Option<Uuid>,
        rule_version: i32,
        issue_store_no: Option<StoreNo>,
        redeemed_store_no: Option<StoreNo>,
        state: i16,
        uses: i16,
        cycles: i16,
        counted: i16,
        lock_order: Option<String>,
        order_ref: Option<String>,
        referrer: Option<String>,
        void_reason: Option<String>,
    }
}

impl CouponRow {
    pub(super) fn into_coupon(self) -> Result<Coupon, WriteError> {
        let impossible = |column: &str| {
            Err(WriteError::Inconsistent(format!("coupon.{column} of code_id {} is impossible", self.code_id)))
        };
        let lock = match (self.lock_order, self.lock_until) {
            (Some(order_ref), Some(until)) => Some(Lock { order_ref, until }),
            (None, None) => None,
            _ => return impossible("lock_until"),
        };
        let state = match (self.state, lock) {
            (1, lock) => State::Issued { lock },
            (2, None) => State::Redeemed,
            (3, None) => State::Void,
            _ => return impossible("state"),
        };
        let last_use = match (self.redemption_id, self.redeemed_at, self.redeemed_store_no, self.order_ref) {
            (Some(redemption_id), Some(at), Some(store_no), Some(order_ref)) => {
                Some(Use { redemption_id, at, store_no, order_ref })
            }
            (None, None, None, None) => None,
            _ => return impossible("redemption_id"),
        };
        Ok(Coupon {
            code_id: self.code_id,
            rule_id: self.rule_id,
            rule_version: self.rule_version,
            holder: self.member_id,
            issued_at: self.issued_at,
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            state,
            uses: self.uses,
            cycles: self.cycles,
            counted: self.counted,
            last_use,
            issue_store_no: self.issue_store_no,
            referrer: self.referrer,
            legacy_key: self.legacy_key,
            void_reason: self.void_reason,
        })
    }
}

pub(super) fn coupon_leaf(code_id: CodeId) -> Leaf {
    plan("coupon").leaf_i64(code_id.get())
}

fn legacy_leaf(key: Uuid) -> Leaf {
    plan("coupon_history_index").leaf_uuid(key)
}

fn ledger_leaf(redemption_id: RedemptionId) -> Leaf {
    plan("redemption").leaf_i64(redemption_id.get())
}

fn raw<T: Copy + Into<i64>>(ids: &[T]) -> Vec<i64> {
    ids.iter().map(|id| (*id).into()).collect()
}

/// Statements that lock coupons, in the order of the lock order, and read them. Those that somebody else has locked are
/// not waited for; [`lock_or_leave`] sees to them.
pub(super) fn lock_free_coupons(tx: &mut Tx<'_>, code_ids: impl Iterator<Item = CodeId>) -> Vec<Statement> {
    if tx.is_patient() {
        // It waits: not before its number is known to be new, and in order.
        return Vec::new();
    }
    coupon_statements(tx, query("coupon/lock_free"), BTreeSet::from_iter(code_ids).into_iter().collect())
}

/// Of coupons that [`lock_free_coupons`] did not bring: waits for their locks, if the batch is patient; else gives those
/// that are there, which somebody else has locked. Those that do not exist are left out.
pub(super) async fn lock_or_leave(
    tx: &mut Tx<'_>,
    others: Vec<CodeId>,
) -> Result<(HashMap<CodeId, Coupon>, HashSet<CodeId>), WriteError> {
    if others.is_empty() {
        Ok((HashMap::new(), HashSet::new()))
    } else if tx.is_patient() {
        Ok((lock_coupons(tx, others).await?, HashSet::new()))
    } else {
        Ok((HashMap::new(), find_coupons(tx, others).await?.into_keys().collect()))
    }
}

/// Locks coupons, in the order of the lock order, and reads them, whoever has them now.
pub(super) async fn lock_coupons(
    tx: &mut Tx<'_>,
    code_ids: Vec<CodeId>,
) -> Result<HashMap<CodeId, Coupon>, WriteError> {
    fetch_coupons(tx, query("coupon/lock"), code_ids).await
}

/// Writes new coupons with their index rows.
pub(super) async fn insert_coupons(tx: &mut Tx<'_>, coupons: &[Coupon]) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(coupons.iter().collect(), |c| (coupon_leaf(c.code_id), c.code_id)) {
        let statement = tx
            .statement(query("coupon/insert"), target)
            .bind(column(&rows, |c| c.code_id.get()))
            .bind(column(&rows, |c| c.rule_id.get()))
            .bind(column(&rows, |c| c.issued_at))
            .bind(column(&rows, |c| c.valid_from))
            .bind(column(&rows, |c| c.valid_until))
            .bind(column(&rows, |c| c.holder.map(MemberId::get)))
            .bind(column(&rows, |c| c.rule_version))
            .bind(column(&rows, |c| c.issue_store_no.map(StoreNo::get)))
            .bind(column(&rows, |c| c.referrer.clone()))
            .bind(column(&rows, |c| c.counted));
        tx.write("coupon", rows.len(), statement).await?;
    }
    insert_received(tx, coupons.iter()).await?;
    for (target, rows) in tx.targets(coupons.iter().collect(), |c| (index_leaf(c.rule_id), (c.rule_id, c.code_id))) {
        let statement = tx
            .statement(query("coupon_index/insert"), target)
            .bind(column(&rows, |c| c.rule_id.get()))
            .bind(column(&rows, |c| c.code_id.get()))
            .bind(column(&rows, |c| c.valid_until))
            .bind(column(&rows, |c| c.holder.map(MemberId::get)))
            .bind(column(&rows, |c| c.state.number()))
            .bind(column(&rows, |c| c.referrer.clone()));
        tx.write("coupon_index", rows.len(), statement).await?;
    }
    Ok(())
}

/// Claims old codes for coupons that are written in the same transaction. Gives those that were free; one under way
/// elsewhere is waited for.
pub(super) async fn claim_legacy(tx: &mut Tx<'_>, codes: Vec<(Uuid, CodeId)>) -> Result<HashSet<Uuid>, WriteError> {
    let mut statements = Vec::new();
    for (target, rows) in tx.targets(codes, |(key, _)| (legacy_leaf(*key), *key)) {
        let statement = tx
            .statement(query("coupon_history_index/claim"), target)
            .bind(column(&rows, |(key, _)| *key))
            .bind(column(&rows, |(_, code_id)| code_id.get()));
        statements.push(statement);
    }
    let won: Vec<(Uuid,)> = tx.fetch(statements).await?;
    Ok(won.into_iter().map(|(key,)| key).collect())
}

/// Gives back claims of coupons that are not written after all.
pub(super) async fn release_legacy(tx: &mut Tx<'_>, codes: Vec<(Uuid, CodeId)>) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(codes, |(key, _)| (legacy_leaf(*key), *key)) {
        let statement = tx
            .statement(query("coupon_history_index/delete"), target)
            .bind(column(&rows, |(key, _)| *key))
            .bind(column(&rows, |(_, code_id)| code_id.get()));
        tx.write("coupon_history_index", rows.len(), statement).await?;
    }
    Ok(())
}

/// The coupons of old codes.
pub(super) async fn find_legacy(tx: &mut Tx<'_>, keys: Vec<Uuid>) -> Result<HashMap<Uuid, CodeId>, WriteError> {
    let mut statements = Vec::new();
    for (target, keys) in tx.targets(keys, |key| (legacy_leaf(*key), *key)) {
        statements.push(tx.statement(query("coupon_history_index/find"), target).bind(keys));
    }
    let found: Vec<(Uuid, CodeId)> = tx.fetch(statements).await?;
    Ok(found.into_iter().collect())
}

/// Coupons as they stand, unlocked.
pub(super) async fn find_coupons(tx: &mut Tx<'_>, ids: Vec<CodeId>) -> Result<HashMap<CodeId, Coupon>, WriteError> {
    fetch_coupons(tx, query("coupon/find"), ids).await
}

async fn fetch_coupons(
    tx: &mut Tx<'_>,
    query: &'static Query,
    ids: Vec<CodeId>,
) -> Result<HashMap<CodeId, Coupon>, WriteError> {
    let statements = coupon_statements(tx, query, ids);
    coupons_of(tx.fetch(statements).await?)
}

fn coupon_statements(tx: &mut Tx<'_>, query: &'static Query, ids: Vec<CodeId>) -> Vec<Statement> {
    let targets = tx.targets(ids, |id| (coupon_leaf(*id), *id));
    targets.into_iter().map(|(target, ids)| tx.statement(query, target).bind(raw(&ids))).collect()
}

pub(super) fn coupons_of(rows: impl IntoIterator<Item = CouponRow>) -> Result<HashMap<CodeId, Coupon>, WriteError> {
    rows.into_iter().map(|row| Ok((row.code_id, row.into_coupon()?))).collect()
}

/// Writes the index rows by holder of coupons that have one.
async fn insert_received<'c>(tx: &mut Tx<'_>, coupons: impl Iterator<Item = &'c Coupon>) -> Result<(), WriteError> {
    let held: Vec<(MemberId, &Coupon)> = coupons.filter_map(|c| Some((c.holder?, c))).collect();
    for (target, rows) in tx.targets(held, |(member, c)| (receive_leaf(*member), (*member, c.code_id))) {
        let statement = tx
            .statement(query("coupon_receive/insert"), target)
            .bind(column(&rows, |(member, _)| member.get()))
            .bind(column(&rows, |(_, c)| c.code_id.get()))
            .bind(column(&rows, |(_, c)| c.rule_id.get()))
            .bind(column(&rows, |(_, c)| c.valid_until))
            .bind(column(&rows, |(_, c)| c.state.number()))
            .bind(column(&rows, |(_, c)| c.rule_version));
        tx.write("coupon_receive", rows.len(), statement).await?;
    }
    Ok(())
}

/// Writes the index rows of coupons that got a holder; their base rows are written by [`update_coupons`].
pub(super) async fn bind_coupons(tx: &mut Tx<'_>, coupons: &[&Coupon]) -> Result<(), WriteError> {
    insert_received(tx, coupons.iter().copied()).await?;
    for (target, rows) in tx.targets(coupons.to_vec(), |c| (index_leaf(c.rule_id), (c.rule_id, c.code_id))) {
        let statement = tx
            .statement(query("coupon_index/update_holder"), target)
            .bind(column(&rows, |c| c.rule_id.get()))
            .bind(column(&rows, |c| c.code_id.get()))
            .bind(column(&rows, |c| c.holder.map(MemberId::get)));
        tx.write("coupon_index", rows.len(), statement).await?;
    }
    Ok(())
}

/// Writes coupons back after a transition; the index rows of those whose state changed with them. The rows are locked.
pub(super) async fn update_coupons(tx: &mut Tx<'_>, coupons: &[(&Coupon, bool)]) -> Result<(), WriteError> {
    let all: Vec<&Coupon> = coupons.iter().map(|(coupon, _)| *coupon).collect();
    for (target, rows) in tx.targets(all, |c| (coupon_leaf(c.code_id), c.code_id)) {
        let lock = |c: &Coupon| match &c.state {
            State::Issued { lock } => lock.clone(),
            State::Redeemed | State::Void => None,
        };
        let statement = tx
            .statement(query("coupon/update_use"), target)
            .bind(column(&rows, |c| c.code_id.get()))
            .bind(column(&rows, |c| c.last_use.as_ref().map(|last| last.redemption_id.get())))
            .bind(column(&rows, |c| c.last_use.as_ref().map(|last| last.at)))
            .bind(column(&rows, |c| lock(c).map(|lock| lock.until)))
            .bind(column(&rows, |c| c.last_use.as_ref().map(|last| last.store_no.get())))
            .bind(column(&rows, |c| c.state.number()))
            .bind(column(&rows, |c| c.uses))
            .bind(column(&rows, |c| c.cycles))
            .bind(column(&rows, |c| lock(c).map(|lock| lock.order_ref)))
            .bind(column(&rows, |c| c.last_use.as_ref().map(|last| last.order_ref.clone())))
            .bind(column(&rows, |c| c.holder.map(MemberId::get)))
            .bind(column(&rows, |c| c.void_reason.clone()));
        tx.write("coupon", rows.len(), statement).await?;
    }
    let moved = || coupons.iter().filter(|(_, state_changed)| *state_changed).map(|(coupon, _)| *coupon);
    let held: Vec<(MemberId, &Coupon)> = moved().filter_map(|c| Some((c.holder?, c))).collect();
    for (target, rows) in tx.targets(held, |(member, c)| (receive_leaf(*member), (*member, c.code_id))) {
        let statement = tx
            .statement(query("coupon_receive/update_state"), target)
            .bind(column(&rows, |(member, _)| member.get()))
            .bind(column(&rows, |(_, c)| c.code_id.get()))
            .bind(column(&rows, |(_, c)| c.state.number()));
        tx.write("coupon_receive", rows.len(), statement).await?;
    }
    for (target, rows) in tx.targets(moved().collect(), |c| (index_leaf(c.rule_id), (c.rule_id, c.code_id))) {
        let statement = tx
            .statement(query("coupon_index/update_state"), target)
            .bind(column(&rows, |c| c.rule_id.get()))
            .bind(column(&rows, |c| c.code_id.get()))
            .bind(column(&rows, |c| c.state.number()));
        tx.write("coupon_index", rows.len(), statement).await?;
    }
    Ok(())
}

pub(super) fn receive_leaf(member_id: MemberId) -> Leaf {
    plan("coupon_receive").leaf_i64(member_id.get())
}

pub(super) fn index_leaf(rule_id: RuleId) -> Leaf {
    plan("coupon_index").leaf_i64(rule_id.get())
}

/// Locks the counts of members by rule, making those that are missing.
pub(super) async fn lock_member_rules(
    tx: &mut Tx<'_>,
    keys: Vec<(MemberId, RuleId)>,
) -> Result<HashMap<(MemberId, RuleId), MemberRule>, WriteError> {
    let targets = tx.targets(keys, |key| (plan("member_rule").leaf_i64(key.0.get()), *key));
    let bound = |statement: Statement, keys: &[(MemberId, RuleId)]| {
        statement.bind(column(keys, |key| key.0.get())).bind(column(keys, |key| key.1.get()))
    };
    for (target, keys) in &targets {
        let statement = bound(tx.statement(query("member_rule/insert_missing"), *target), keys);
        tx.write_some(statement).await?;
    }
    // Only now, so that rows are taken in one order by whoever goes by leaf and whoever goes by the table.
    let mut statements = Vec::with_capacity(targets.len());
    for (target, keys) in &targets {
        statements.push(bound(tx.statement(query("member_rule/lock"), *target), keys));
    }
    let rows: Vec<(MemberId, RuleId, i32)> = tx.fetch(statements).await?;
    expect_rows("member_rule", targets.iter().map(|(_, keys)| keys.len()).sum(), rows.len() as u64)?;
    let counted = |taken| MemberRule { taken, last_taken_at: None };
    Ok(rows.into_iter().map(|(member, rule, taken)| ((member, rule), counted(taken))).collect())
}

pub(super) async fn update_member_rules(
    tx: &mut Tx<'_>,
    rows: Vec<((MemberId, RuleId), MemberRule)>,
) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(rows, |(key, _)| (plan("member_rule").leaf_i64(key.0.get()), *key)) {
        let statement = tx
            .statement(query("member_rule/update"), target)
            .bind(column(&rows, |((member, _), _)| member.get()))
            .bind(column(&rows, |((_, rule), _)| rule.get()))
            .bind(column(&rows, |(_, row)| row.taken))
            .bind(column(&rows, |(_, row)| row.last_taken_at));
        tx.write("member_rule", rows.len(), statement).await?;
    }
    Ok(())
}

/// Locks the stock rows of rules, making those that are missing.
pub(super) async fn lock_stocks(tx: &mut Tx<'_>, keys: Vec<StockKey>) -> Result<HashMap<StockKey, Stock>, WriteError> {
    let targets = tx.targets(keys, |key| (plan("coupon_stock").leaf_i64(key.0.get()), *key));
    let bound = |statement: Statement, keys: &[StockKey]| {
        statement.bind(column(keys, |key| key.0.get())).bind(column(keys, |key| key.1)).bind(column(keys, |key| key.2))
    };
    for (target, keys) in &targets {
        let statement = bound(tx.statement(query("coupon_stock/insert_missing"), *target), keys);
        tx.write_some(statement).await?;
    }
    // Only now, so that rows are taken in one order by whoever goes by leaf and whoever goes by the table.
    let mut statements = Vec::with_capacity(targets.len());
    for (target, keys) in &targets {
        statements.push(bound(tx.statement(query("coupon_stock/lock"), *target), keys));
    }
    let rows: Vec<(RuleId, i64, i64, i64, i32, i32)> = tx.fetch(statements).await?;
    expect_rows("coupon_stock", targets.iter().map(|(_, keys)| keys.len()).sum(), rows.len() as u64)?;
    let stock = |(rule, issued, voided, spent, period, store)| ((rule, period, store), Stock { issued, voided, spent });
    Ok(rows.into_iter().map(stock).collect())
}

pub(super) async fn update_stocks(tx: &mut Tx<'_>, rows: Vec<(StockKey, Stock)>) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(rows, |(key, _)| (plan("coupon_stock").leaf_i64(key.0.get()), *key)) {
        let statement = tx
            .statement(query("coupon_stock/update"), target)
            .bind(column(&rows, |(key, _)| key.0.get()))
            .bind(column(&rows, |(key, _)| key.1))
            .bind(column(&rows, |(key, _)| key.2))
            .bind(column(&rows, |(_, stock)| stock.issued))
            .bind(column(&rows, |(_, stock)| stock.voided))
            .bind(column(&rows, |(_, stock)| stock.spent));
        tx.write("coupon_stock", rows.len(), statement).await?;
    }
    Ok(())
}

#[derive(FromRow)]
pub(super) struct RedemptionRow {
    pub(super) redemption_id: RedemptionId,
    code_id: CodeId,
    rule_id: RuleId,
    recorded_at: DateTime<Utc>,
    occurred_at: Option<DateTime<Utc>>,
    amount: i64,
    discount: i64,
    member_id: Option<MemberId>,
    reverses: Option<RedemptionId>,
    reversed: i64,
    returned: i64,
    rule_version: i32,
    store_no: StoreNo,
    sequence: Option<i32>,
    kind: i16,
    counted: i16,
    reversed_whole: bool,
    register: Option<String>,
    order_ref: String,
    lines: Option<String>,
}

impl RedemptionRow {
    pub(super) fn into_redemption(self) -> Result<Redemption, WriteError> {
        let kind = LedgerKind::from_number(self.kind).ok_or_else(|| {
            WriteError::Inconsistent(format!("redemption.kind of {} is impossible", self.redemption_id))
        })?;
        let lines = self.lines.as_deref().map(serde_json::from_str).transpose().map_err(|_| {
            WriteError::Inconsistent(format!("redemption.lines of {} is impossible", self.redemption_id))
        })?;
        Ok(Redemption {
            redemption_id: self.redemption_id,
            kind,
            code_id: self.code_id,
            rule_id: self.rule_id,
            rule_version: self.rule_version,
            member_id: self.member_id,
            recorded_at: self.recorded_at,
            occurred_at: self.occurred_at,
            amount: self.amount,
            discount: self.discount,
            reverses: self.reverses,
            reversed: self.reversed,
            returned: self.returned,
            counted: self.counted,
            lines: lines.unwrap_or_default(),
            reversed_whole: self.reversed_whole,
            store_no: self.store_no,
            register: self.register,
            sequence: self.sequence,
            order_ref: self.order_ref,
        })
    }
}

/// Locks ledger rows and reads them. Those that do not exist are left out.
pub(super) async fn lock_redemptions(
    tx: &mut Tx<'_>,
    ids: Vec<RedemptionId>,
) -> Result<HashMap<RedemptionId, Redemption>, WriteError> {
    let mut statements = Vec::new();
    for (target, ids) in tx.targets(ids, |id| (ledger_leaf(*id), *id)) {
        statements.push(tx.statement(query("redemption/lock"), target).bind(raw(&ids)));
    }
    let rows: Vec<RedemptionRow> = tx.fetch(statements).await?;
    rows.into_iter().map(|row| Ok((row.redemption_id, row.into_redemption()?))).collect()
}

pub(super) async fn insert_redemptions(tx: &mut Tx<'_>, rows: &[Redemption]) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(rows.iter().collect(), |r| (ledger_leaf(r.redemption_id), r.redemption_id)) {
        let statement = tx
            .statement(query("redemption/insert"), target)
            .bind(column(&rows, |r| r.redemption_id.get()))
            .bind(column(&rows, |r| r.code_id.get()))
            .bind(column(&rows, |r| r.rule_id.get()))
            .bind(column(&rows, |r| r.recorded_at))
            .bind(column(&rows, |r| r.amount))
            .bind(column(&rows, |r| r.discount))
            .bind(column(&rows, |r| r.member_id.map(MemberId::get)))
            .bind(column(&rows, |r| r.reverses.map(RedemptionId::get)))
            .bind(column(&rows, |r| r.rule_version))
            .bind(column(&rows, |r| r.store_no.get()))
            .bind(column(&rows, |r| r.sequence))
            .bind(column(&rows, |r| r.kind.number()))
            .bind(column(&rows, |r| r.register.clone()))
            .bind(column(&rows, |r| r.order_ref.clone()))
            .bind(column(&rows, |r| r.counted))
            .bind(column(&rows, |r| lines_text(r)))
            .bind(column(&rows, |r| r.occurred_at))
            .bind(column(&rows, |r| r.reversed_whole));
        tx.write("redemption", rows.len(), statement).await?;
    }
    Ok(())
}

/// Notes on uses that they were undone. The rows are locked.
pub(super) async fn update_redemptions(tx: &mut Tx<'_>, rows: &[&Redemption]) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(rows.to_vec(), |r| (ledger_leaf(r.redemption_id), r.redemption_id)) {
        let statement = tx
            .statement(query("redemption/update_reversed"), target)
            .bind(column(&rows, |r| r.redemption_id.get()))
            .bind(column(&rows, |r| r.reversed))
            .bind(column(&rows, |r| r.returned))
            .bind(column(&rows, |r| r.reversed_whole))
            .bind(column(&rows, |r| lines_text(r)));
        tx.write("redemption", rows.len(), statement).await?;
    }
    Ok(())
}

fn lines_text(row: &Redemption) -> Option<String> {
    (!row.lines.is_empty())
        .then(|| serde_json::to_string(&row.lines).expect("plain structs with string keys always serialise"))
}
