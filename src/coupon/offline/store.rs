//! The SQL of offline redemptions that do not fit, and of the items that have no other number.
//!
//! Lock order: `redemption_late` before `request`, `redemption_conflict` as [`crate::coupon::store`] says.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Conflict, How, Item, ItemDone, Resolution, Sent};
use crate::{
    db::lane::{Target, Tx, WriteError, column, expect_rows},
    id::{CodeId, Day, MemberId, RedemptionId, StoreNo},
    partition::{Leaf, plan, query},
    problem::{Code, Refusal},
    request::store::Answer,
};

fn leaf(conflict_id: RedemptionId) -> Leaf {
    plan("redemption_conflict").leaf_i64(conflict_id.get())
}

pub async fn insert_conflicts(tx: &mut Tx<'_>, conflicts: &[Conflict]) -> Result<(), WriteError> {
    for (target, rows) in tx.targets(conflicts.iter().collect(), |c| (leaf(c.conflict_id), c.conflict_id)) {
        let statement = tx
            .statement(query("redemption_conflict/insert"), target)
            .bind(column(&rows, |c| c.conflict_id.get()))
            .bind(column(&rows, |c| c.recorded_at))
            .bind(column(&rows, |c| c.redeemed_at))
            .bind(column(&rows, |c| c.amount))
            .bind(column(&rows, |c| c.discount))
            .bind(column(&rows, |c| c.code.code_id().map(CodeId::get)))
            .bind(column(&rows, |c| c.member_id.map(MemberId::get)))
            .bind(column(&rows, |c| c.business_day.to_date()))
            .bind(column(&rows, |c| c.store_no.get()))
            .bind(column(&rows, |c| c.sequence))
            .bind(column(&rows, |c| c.register.clone()))
            .bind(column(&rows, |c| c.order_ref.clone()))
            .bind(column(&rows, |c| c.reason.clone()))
            .bind(column(&rows, |c| c.code.kept()))
            .bind(column(&rows, |c| c.currency.clone()))
            .bind(column(&rows, |c| c.details.clone()));
        tx.write("redemption_conflict", rows.len(), statement).await?;
    }
    Ok(())
}

#[derive(FromRow)]
struct ConflictRow {
    conflict_id: RedemptionId,
    recorded_at: DateTime<Utc>,
    redeemed_at: DateTime<Utc>,
    amount: i64,
    discount: Option<i64>,
    code_id: Option<CodeId>,
    member_id: Option<MemberId>,
    resolved_at: Option<DateTime<Utc>>,
    business_date: NaiveDate,
    store_no: StoreNo,
    sequence: i32,
    version: i32,
    how: Option<i16>,
    register: String,
    order_ref: String,
    reason: String,
    code: Option<String>,
    currency: Option<String>,
    details: Option<String>,
    note: Option<String>,
    resolved_by: Option<String>,
}

impl ConflictRow {
    fn into_conflict(self) -> Result<Conflict, sqlx::Error> {
        let impossible = |column: &str| {
            sqlx::Error::Decode(format!("redemption_conflict.{column} of {} is impossible", self.conflict_id).into())
        };
        let resolution = match (self.how, self.resolved_at) {
            (Some(how), Some(at)) => Some(Resolution {
                how: How::from_number(how).ok_or_else(|| impossible("how"))?,
                at,
                by: self.resolved_by.ok_or_else(|| impossible("resolved_by"))?,
                note: self.note.unwrap_or_default(),
            }),
            (None, None) => None,
            _ => return Err(impossible("resolved_at")),
        };
        Ok(Conflict {
            conflict_id: self.conflict_id,
            recorded_at: self.recorded_at,
            redeemed_at: self.redeemed_at,
            amount: self.amount,
            discount: self.discount,
            code: match self.code_id {
                Some(code_id) => Sent::Ours(code_id),
                None => Sent::Foreign(self.code.unwrap_or_default()),
            },
            member_id: self.member_id,
            business_day: Day::from_date(self.business_date),
            store_no: self.store_no,
            register: self.register,
            sequence: self.sequence,
            order_ref: self.order_ref,
            reason: self.reason,
            currency: self.currency,
            details: self.details,
            version: self.version,
            resolution,
        })
    }
}

/// A conflict; `None` also when no leaf holds its month.
pub async fn find_conflict(conn: &mut PgConnection, id: RedemptionId) -> Result<Option<Conflict>, sqlx::Error> {
    let row: Option<ConflictRow> =
        sqlx::query_as(query("redemption_conflict/find").parent()).bind(id.get()).fetch_optional(conn).await?;
    row.map(ConflictRow::into_conflict).transpose()
}

pub async fn lock_conflict(tx: &mut Tx<'_>, id: RedemptionId) -> Result<Option<Conflict>, WriteError> {
    // Through the parent if need be: an id can name a month for which there is no leaf.
    let Some((target, _)) = tx.targets(vec![id], |id| (leaf(*id), *id)).pop() else { return Ok(None) };
    let sql = tx.sql(query("redemption_conflict/lock"), target);
    let row: Option<ConflictRow> = sqlx::query_as(sql).bind(id.get()).fetch_optional(tx.conn().await?).await?;
    Ok(row.map(ConflictRow::into_conflict).transpose()?)
}

/// Writes what was decided of a conflict. The row is locked.
pub async fn update_resolution(tx: &mut Tx<'_>, conflict: &Conflict) -> Result<(), WriteError> {
    let sql = tx.sql(query("redemption_conflict/update_resolution"), Target::Leaf(leaf(conflict.conflict_id)));
    let resolution = conflict.resolution.as_ref();
    let updated = sqlx::query(sql)
        .bind(conflict.conflict_id.get())
        .bind(conflict.version)
        .bind(resolution.map(|resolution| resolution.at))
        .bind(resolution.map(|resolution| resolution.how.number()))
        .bind(resolution.map(|resolution| resolution.note.as_str()))
        .bind(resolution.map(|resolution| resolution.by.as_str()))
        .execute(tx.conn().await?)
        .await?;
    expect_rows("redemption_conflict", 1, updated.rows_affected())
}

/// Which conflicts a list shows: of ids of one month.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub from: i64,
    pub before: i64,
    pub store_no: Option<StoreNo>,
    /// Those that are decided, or those that are not.
    pub resolved: Option<bool>,
}

/// Newest first.
pub async fn list_conflicts(
    conn: &mut PgConnection,
    range: Range,
    rows_max: i64,
) -> Result<Vec<Conflict>, sqlx::Error> {
    // Those that are open have indexes of their own.
    let is_open = range.resolved == Some(false);
    let name = match (is_open, range.store_no.is_some()) {
        (true, true) => "redemption_conflict/list_open_of_store",
        (true, false) => "redemption_conflict/list_open",
        (false, true) => "redemption_conflict/list_of_store",
        (false, false) => "redemption_conflict/list",
    };
    let mut asked = sqlx::query_as(query(name).parent()).bind(range.from).bind(range.before);
    if !is_open {
        asked = asked.bind(range.resolved);
    }
    let asked = asked.bind(rows_max);
    let rows: Vec<ConflictRow> = match range.store_no {
        Some(store_no) => asked.bind(store_no.get()).fetch_all(conn).await?,
        None => asked.fetch_all(conn).await?,
    };
    rows.into_iter().map(ConflictRow::into_conflict).collect()
}

/// Claims the keys of items that have no other number; gives the answers of those that were claimed before.
pub async fn claim_late(
    tx: &mut Tx<'_>,
    now: DateTime<Utc>,
    mut keys: Vec<Uuid>,
) -> Result<HashMap<Uuid, Answer>, WriteError> {
    keys.sort_unstable();
    tx.plain();
    let won = sqlx::query_file_scalar!("sql/queries/redemption_late/claim.sql", now, &keys)
        .fetch_all(tx.conn().await?)
        .await?;
    keys.retain(|key| !won.contains(key));
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    find_late(tx, keys).await
}

/// The answers of those of these items that were claimed so before.
pub async fn find_late(tx: &mut Tx<'_>, keys: Vec<Uuid>) -> Result<HashMap<Uuid, Answer>, WriteError> {
    tx.plain();
    let rows = sqlx::query_file!("sql/queries/redemption_late/find.sql", &keys).fetch_all(tx.conn().await?).await?;
    let answer = |key: Uuid, text: Option<String>| match text {
        Some(text) => Ok((key, Answer { status: 200, body: text.into(), replayed: true })),
        None => Err(WriteError::Inconsistent(format!("redemption_late.answer of {key} is missing"))),
    };
    rows.into_iter().map(|row| answer(row.key, row.answer)).collect()
}

pub async fn update_late(tx: &mut Tx<'_>, answers: &[(Uuid, &Answer)]) -> Result<(), WriteError> {
    let keys = column(answers, |(key, _)| *key);
    let texts = column(answers, |(_, answer)| answer.body.to_string());
    tx.plain();
    let updated = sqlx::query_file!("sql/queries/redemption_late/update_answer.sql", &keys, &texts);
    let updated = updated.execute(tx.conn().await?).await?;
    expect_rows("redemption_late", answers.len(), updated.rows_affected())
}

#[derive(FromRow)]
struct Used {
    redemption_id: RedemptionId,
    store_no: StoreNo,
    register: Option<String>,
    sequence: Option<i32>,
    code_id: CodeId,
    amount: i64,
    discount: i64,
    order_ref: String,
}

#[derive(FromRow)]
struct Recorded {
    conflict_id: RedemptionId,
    store_no: StoreNo,
    register: String,
    sequence: i32,
    code_id: Option<CodeId>,
    code: Option<String>,
    amount: i64,
    order_ref: String,
    reason: String,
}

/// Where items whose requests are forgotten stand already: in the ledger, or among the conflicts of their day. In the
/// order of the items.
pub async fn find_recorded(tx: &mut Tx<'_>, items: &[&Item]) -> Result<Vec<Option<ItemDone>>, WriteError> {
    let first = |item: &&Item| item.business_day.first_id();
    let mut used: Vec<Used> = Vec::new();
    // The ledger knows coupons only.
    let ours: Vec<&Item> = items.iter().copied().filter(|item| item.code.code_id().is_some()).collect();
    for (target, items) in tx.targets(ours, |item| (plan("redemption").leaf_i64(first(item)), first(item))) {
        let sql = tx.sql(query("redemption/of_till"), target);
        let asked = of_tills(sqlx::query_as(sql), &items);
        let asked = asked.bind(column(&items, |item| item.code.code_id().map(CodeId::get)));
        used.extend(asked.fetch_all(tx.conn().await?).await?);
    }
    let mut recorded: Vec<Recorded> = Vec::new();
    let conflicts = plan("redemption_conflict");
    for (target, items) in tx.targets(items.to_vec(), |item| (conflicts.leaf_i64(first(item)), first(item))) {
        let sql = tx.sql(query("redemption_conflict/of_till"), target);
        recorded.extend(of_tills(sqlx::query_as(sql), &items).fetch_all(tx.conn().await?).await?);
    }
    let of_item = |item: &&Item| {
        let used = used.iter().find(|row| {
            (row.redemption_id.day(), row.store_no) == (item.business_day, item.place.store_no)
                && row.register.as_ref() == Some(&item.register)
                && row.sequence == Some(item.sequence)
                && (Some(row.code_id), row.amount) == (item.code.code_id(), item.amount)
                && row.order_ref == item.order_ref
        });
        let recorded = || {
            recorded.iter().find(|row| {
                (row.conflict_id.day(), row.store_no) == (item.business_day, item.place.store_no)
                    && (&row.register, row.sequence) == (&item.register, item.sequence)
                    && (row.code_id, row.amount) == (item.code.code_id(), item.amount)
                    && row.code == item.code.kept()
                    && row.order_ref == item.order_ref
            })
        };
        match used {
            Some(row) => Some(item.accepted(row.redemption_id, row.discount)),
            None => recorded().map(|row| ItemDone {
                reason: Some(row.reason.clone()),
                ..item.refused(row.conflict_id, &Refusal::new(Code::RequestNumberExpired))
            }),
        }
    };
    Ok(items.iter().map(of_item).collect())
}

type Asked<'q, R> = sqlx::query::QueryAs<'q, sqlx::Postgres, R, sqlx::postgres::PgArguments>;

fn of_tills<'q, R>(asked: Asked<'q, R>, items: &[&Item]) -> Asked<'q, R> {
    asked
        .bind(column(items, |item| item.business_day.first_id()))
        .bind(column(items, |item| item.place.store_no.get()))
        .bind(column(items, |item| item.register.clone()))
        .bind(column(items, |item| item.sequence))
}
