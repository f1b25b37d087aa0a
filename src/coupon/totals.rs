//! What a store's business day came to, by register and by rule: sums over the ledger, to the smallest unit.
//!
//! The ledger's ids carry the business day, so a day of a store is one range of one leaf, and an upload that comes late
//! changes the day that it belongs to.

use std::{
    collections::BTreeMap,
    ops::{AddAssign, DerefMut},
};

use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use utoipa::{IntoParams, ToSchema};

use crate::{
    app::App,
    chain::StoreId,
    db::pool,
    http::{Answer, ApiError, Caller, Query, Reply, Routes, app::Shell},
    id::{DAY_END, Day, RuleId, StoreNo},
    meter::Meter,
    partition::query,
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        get_totals: StoreNotFound, StoreForbidden;
    }
}

/// So many, and what they come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = TotalsSum)]
pub struct Sum {
    pub count: i64,
    /// Payable before the discount, or returned of it, smallest unit.
    pub amount: i64,
    /// Taken off, or taken back, smallest unit.
    pub discount: i64,
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.amount += other.amount;
        self.discount += other.discount;
    }
}

/// What the ledger holds of a day, or of a part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = TotalsSums)]
pub struct Sums {
    /// Uses of that day, whether or not they were taken back, that day or later.
    pub redemptions: Sum,
    /// Of those, the ones that were sent afterwards.
    pub offline: Sum,
    /// Undos of that day with which a use came back whole.
    pub reversals_whole: Sum,
    /// Undos of that day of a part.
    pub reversals_partial: Sum,
    /// Taken off less taken back, smallest unit.
    pub net_discount: i64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.redemptions += other.redemptions;
        self.offline += other.offline;
        self.reversals_whole += other.reversals_whole;
        self.reversals_partial += other.reversals_partial;
        self.net_discount += other.net_discount;
    }
}

#[derive(FromRow)]
struct Row<K> {
    #[sqlx(flatten)]
    key: K,
    uses: i64,
    uses_amount: i64,
    uses_discount: i64,
    offline: i64,
    offline_amount: i64,
    offline_discount: i64,
    whole: i64,
    whole_amount: i64,
    whole_discount: i64,
    part: i64,
    part_amount: i64,
    part_discount: i64,
}

impl<K> Row<K> {
    fn sums(&self) -> Sums {
        let sum = |count, amount, discount| Sum { count, amount, discount };
        Sums {
            redemptions: sum(self.uses, self.uses_amount, self.uses_discount),
            offline: sum(self.offline, self.offline_amount, self.offline_discount),
            reversals_whole: sum(self.whole, self.whole_amount, self.whole_discount),
            reversals_partial: sum(self.part, self.part_amount, self.part_discount),
            net_discount: self.uses_discount - self.whole_discount - self.part_discount,
        }
    }
}

#[derive(FromRow)]
struct OfRegister {
    register: Option<String>,
}

#[derive(FromRow)]
struct OfRule {
    rule_id: RuleId,
}

/// The totals of one register.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct RegisterTotals {
    /// Null is what was asked without a register.
    #[schema(required)]
    register: Option<String>,
    ledger: Sums,
    /// Offline redemptions that did not fit.
    conflicts: Sum,
}

/// The totals of one rule.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleTotals {
    rule_id: RuleId,
    ledger: Sums,
}

/// What a business day of a store came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Totals {
    store_id: StoreId,
    business_date: Day,
    /// Of all registers.
    ledger: Sums,
    /// Of all registers.
    conflicts: Sum,
    registers: Vec<RegisterTotals>,
    /// When asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    rules: Option<Vec<RuleTotals>>,
}

/// Reads the totals of a day: of the registers, and of the rules if asked for.
async fn read(
    conn: &mut impl DerefMut<Target = PgConnection>,
    store_no: StoreNo,
    day: Day,
    by_rule: bool,
) -> Result<(Vec<RegisterTotals>, Option<Vec<RuleTotals>>), sqlx::Error> {
    let (from, before) = (day.first_id(), day.plus(1).first_id());
    let mut registers: BTreeMap<Option<String>, RegisterTotals> = BTreeMap::new();
    let ledger = sqlx::query_as(query("redemption/totals").parent()).bind(from).bind(before).bind(store_no.get());
    let rows: Vec<Row<OfRegister>> = ledger.fetch_all(&mut **conn).await?;
    for row in rows {
        let ledger = row.sums();
        let register = row.key.register;
        registers.insert(register.clone(), RegisterTotals { register, ledger, ..RegisterTotals::default() });
    }
    let conflicts = query("redemption_conflict/totals").parent();
    let conflicts = sqlx::query_as(conflicts).bind(from).bind(before).bind(store_no.get());
    let rows: Vec<(String, i64, i64, i64)> = conflicts.fetch_all(&mut **conn).await?;
    for (register, count, amount, discount) in rows {
        let register = Some(register);
        let totals = registers.entry(register.clone()).or_default();
        totals.register = register;
        totals.conflicts = Sum { count, amount, discount };
    }
    let mut rules = None;
    if by_rule {
        let by_rule = query("redemption/totals_by_rule").parent();
        let by_rule = sqlx::query_as(by_rule).bind(from).bind(before).bind(store_no.get());
        let mut rows: Vec<Row<OfRule>> = by_rule.fetch_all(&mut **conn).await?;
        rows.sort_by_key(|row| row.key.rule_id);
        rules = Some(rows.iter().map(|row| RuleTotals { rule_id: row.key.rule_id, ledger: row.sums() }).collect());
    }
    Ok((registers.into_values().collect(), rules))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TotalsQuery {
    /// A till's key asks for its own store.
    #[param(inline)]
    store: Option<StoreId>,
    /// Today in the chain's zone if absent.
    #[param(inline)]
    business_date: Option<Day>,
    /// Whether the sums by rule are wanted too.
    #[param(inline)]
    by_rule: Option<bool>,
}

/// Get the totals of a business day
///
/// For the end of the day: what the ledger holds of it, by register and in all. They are the sums of the ledger's rows at
/// the moment of asking, so an upload that comes late changes the day that it belongs to. An undo counts on its own day.
/// Amounts of rules in different currencies are added as they are; `by_rule` tells them apart. Checked in this order:
/// parameters, store.
#[utoipa::path(get, path = "/v1/pos/totals", tag = "tills", params(TotalsQuery),
    responses((status = 200, description = "The totals", body = Totals)))]
async fn get_totals(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    Query(asked): Query<TotalsQuery>,
) -> Reply<Totals> {
    let refused = |name: &str, detail: &str| Refusal::new(Code::MalformedQuery).detail(detail).with("parameter", name);
    let own = caller.store.as_ref().map(|(_, own)| own.clone());
    let store_id = asked.store.or(own).ok_or_else(|| refused("store", "which store?"))?;
    let day = asked.business_date.unwrap_or_else(|| shell.zone.day_of(shell.clock.now()));
    if !(0..DAY_END).contains(&day.number()) {
        return Err(refused("business_date", "there is no such business day").into());
    }
    caller.must_be_at(&store_id)?;
    let shop = app.stores.get(&store_id).await?;
    let mut conn = shell.conn().await?;
    let by_rule = asked.by_rule.unwrap_or(false);
    let read = read(&mut conn, shop.store_no, day, by_rule).await;
    let (registers, rules) = read.map_err(|error| ApiError::from(pool::Error::from(error)))?;
    let meter = Meter { leaves: if by_rule { 3 } else { 2 }, ..conn.meter() };
    let (mut ledger, mut conflicts) = (Sums::default(), Sum::default());
    for register in &registers {
        ledger += register.ledger;
        conflicts += register.conflicts;
    }
    let totals = Totals { store_id, business_date: day, ledger, conflicts, registers, rules };
    Ok(Answer::ok(totals).metered(meter))
}
