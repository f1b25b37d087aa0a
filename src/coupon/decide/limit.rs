//! Stock in coupons and budget in money, in all, by day and by store.
//!
//! Each limit that a rule has is a row of `coupon_stock`, which the writer has locked. What is taken is taken from all
//! of them or none; which ones it was taken from is kept with the coupon or the use as bits, so that it is given back
//! to those, whatever the rule says by then.

use crate::{
    coupon::{
        rule::{Limit, RuleVersion},
        world::{StockKey, World},
    },
    id::{Day, RuleId, StoreNo},
    problem::{Code, Refusal},
};

/// A part of a rule that has a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Whole,
    Day(Day),
    Store(StoreNo),
}

impl Part {
    /// Its bit in `counted`.
    const fn bit(self) -> i16 {
        match self {
            Part::Whole => 1,
            Part::Day(_) => 2,
            Part::Store(_) => 4,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Part::Whole => "total",
            Part::Day(_) => "day",
            Part::Store(_) => "store",
        }
    }

    pub fn key(self, rule_id: RuleId) -> StockKey {
        match self {
            Part::Whole => (rule_id, 0, 0),
            Part::Day(day) => (rule_id, day.number(), 0),
            Part::Store(store_no) => (rule_id, 0, store_no.get()),
        }
    }

    /// The parts that bits name.
    pub fn counted(bits: i16, day: Day, store_no: Option<StoreNo>) -> Vec<Part> {
        let all = [Some(Part::Whole), Some(Part::Day(day)), store_no.map(Part::Store)];
        all.into_iter().flatten().filter(|part| bits & part.bit() != 0).collect()
    }
}

fn parts(limit: &Limit, day: Day, store_no: Option<StoreNo>) -> Vec<(Part, i64)> {
    let whole = limit.total.map(|most| (Part::Whole, most));
    let day = limit.per_day.map(|most| (Part::Day(day), most));
    let store = limit.per_store.zip(store_no).map(|(most, store_no)| (Part::Store(store_no), most));
    [whole, day, store].into_iter().flatten().collect()
}

/// The rows that issuing takes from: the whole rule's always, which counts what is issued.
pub fn parts_of_issue(rule: &RuleVersion, day: Day, store_no: Option<StoreNo>) -> Vec<Part> {
    let mut found: Vec<Part> = parts(&rule.stock, day, store_no).into_iter().map(|(part, _)| part).collect();
    if !found.contains(&Part::Whole) {
        found.insert(0, Part::Whole);
    }
    found
}

/// The rows that a use takes money from; none for a rule without a budget.
pub fn parts_of_use(rule: &RuleVersion, day: Day, store_no: StoreNo) -> Vec<Part> {
    parts(&rule.budget, day, Some(store_no)).into_iter().map(|(part, _)| part).collect()
}

pub(super) fn bits(parts: &[Part]) -> i16 {
    parts.iter().map(|part| part.bit()).sum()
}

/// Takes coupons from a rule's stock. Gives the bits of what they were taken from.
///
/// # Errors
/// `stock_exhausted` with the `scope` that is empty and what is `left` there.
pub(super) fn take_stock(
    world: &mut World,
    rule: &RuleVersion,
    day: Day,
    store_no: Option<StoreNo>,
    count: i64,
) -> Result<i16, Refusal> {
    for (part, most) in parts(&rule.stock, day, store_no) {
        let stock = world.stock(part.key(rule.rule_id));
        let taken = stock.issued - stock.voided;
        if taken + count > most {
            let left = (most - taken).max(0);
            return Err(Refusal::new(Code::StockExhausted).with("left", left).with("scope", part.name()));
        }
    }
    let from = parts_of_issue(rule, day, store_no);
    for part in &from {
        world.change_stock(part.key(rule.rule_id), |stock| stock.issued += count);
    }
    Ok(bits(&from))
}

/// Gives one coupon back to the stock that it was taken from.
pub(super) fn give_stock(world: &mut World, rule_id: RuleId, from: &[Part]) {
    for part in from {
        world.change_stock(part.key(rule_id), |stock| stock.voided += 1);
    }
}

/// Takes money from a rule's budget. Gives the bits of what it was taken from.
///
/// # Errors
/// `budget_exhausted` with the `scope` that is empty and what is `left` there.
pub(super) fn take_money(
    world: &mut World,
    rule: &RuleVersion,
    day: Day,
    store_no: StoreNo,
    money: i64,
) -> Result<i16, Refusal> {
    let limits = parts(&rule.budget, day, Some(store_no));
    for (part, most) in &limits {
        let spent = world.stock(part.key(rule.rule_id)).spent;
        if spent + money > *most {
            let left = (most - spent).max(0);
            return Err(Refusal::new(Code::BudgetExhausted).with("left", left).with("scope", part.name()));
        }
    }
    let from: Vec<Part> = limits.into_iter().map(|(part, _)| part).collect();
    for part in &from {
        world.change_stock(part.key(rule.rule_id), |stock| stock.spent += money);
    }
    Ok(bits(&from))
}

/// Gives money back to the budget that it was taken from.
pub(super) fn give_money(world: &mut World, rule_id: RuleId, from: &[Part], money: i64) {
    for part in from {
        world.change_stock(part.key(rule_id), |stock| stock.spent -= money);
    }
}
