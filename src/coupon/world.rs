//! What a batch of coupon requests sees: the locked rows, and what the decisions so far have changed.
//!
//! Each decision sees those before it, since it works on the same rows. Nothing here talks to the database; the writer
//! writes what is marked as changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    Coupon,
    decide::Line,
    offline::Conflict,
    rule::{Rule, RuleVersion},
    writer::CouponOp,
};
use crate::{
    clock::Zone,
    event::NewEvent,
    id::{CodeId, Day, MemberId, RedemptionId, RuleId, StoreNo},
    member::Standing,
    partition::{Closed, Leaf, plan},
    problem::{Code, Refusal},
};

/// A row of `coupon_stock`: rule, period (0 or business day) and store (0 is all).
pub type StockKey = (RuleId, i32, i32);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    pub issued: i64,
    pub voided: i64,
    /// Money that uses took and have, smallest unit.
    pub spent: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRule {
    pub taken: i32,
    pub last_taken_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerKind {
    Redeem,
    Reverse,
}

impl LedgerKind {
    pub fn number(self) -> i16 {
        match self {
            LedgerKind::Redeem => 1,
            LedgerKind::Reverse => 2,
        }
    }

    pub fn from_number(number: i16) -> Option<Self> {
        [LedgerKind::Redeem, LedgerKind::Reverse].into_iter().find(|kind| kind.number() == number)
    }
}

/// A row of the ledger: a use or an undo.
#[derive(Debug, Clone, PartialEq)]
pub struct Redemption {
    pub redemption_id: RedemptionId,
    pub kind: LedgerKind,
    pub code_id: CodeId,
    pub rule_id: RuleId,
    pub rule_version: i32,
    pub member_id: Option<MemberId>,
    pub recorded_at: DateTime<Utc>,
    /// When it was, as the till says, of a use that was sent afterwards.
    pub occurred_at: Option<DateTime<Utc>>,
    pub amount: i64,
    pub discount: i64,
    pub reverses: Option<RedemptionId>,
    /// Of the discount, taken back so far.
    pub reversed: i64,
    /// Of the amount, returned so far.
    pub returned: i64,
    /// Bits of the budgets that the discount was taken from.
    pub counted: i16,
    pub lines: Vec<Line>,
    /// Of a use: it was taken back whole. Of an undo: with it the use was.
    pub reversed_whole: bool,
    pub store_no: StoreNo,
    pub register: Option<String>,
    pub sequence: Option<i32>,
    pub order_ref: String,
}

/// The rows of one batch.
pub struct World {
    pub now: DateTime<Utc>,
    pub zone: Zone,
    pub coupons: HashMap<CodeId, Coupon>,
    pub members: HashMap<MemberId, Standing>,
    pub rules: HashMap<(RuleId, i32), Arc<RuleVersion>>,
    /// Rules as they are now.
    pub heads: HashMap<RuleId, Arc<Rule>>,
    pub member_rules: HashMap<(MemberId, RuleId), MemberRule>,
    pub stocks: HashMap<StockKey, Stock>,
    pub redemptions: HashMap<RedemptionId, Redemption>,
    /// Names of the stores that the rows speak of.
    pub stores: HashMap<StoreNo, Arc<str>>,
    /// Months of coupons and of the ledger that take no rows, of those that the batch has asked about.
    pub closed: BTreeMap<Leaf, Closed>,
    pub blocked: Blocked,
    pub changed: Changed,
}

/// Rows that are there and that somebody else holds.
#[derive(Default)]
pub struct Blocked {
    pub coupons: HashSet<CodeId>,
    pub members: HashSet<MemberId>,
}

impl Blocked {
    pub fn is_empty(&self) -> bool {
        self.coupons.is_empty() && self.members.is_empty()
    }
}

/// What the decisions of a batch have changed and the writer has to write.
#[derive(Default)]
pub struct Changed {
    pub new_coupons: Vec<Coupon>,
    /// With whether the state changed, which index rows carry.
    pub coupons: BTreeMap<CodeId, bool>,
    /// Coupons that got a holder.
    pub bound: BTreeSet<CodeId>,
    pub member_rules: HashSet<(MemberId, RuleId)>,
    pub stocks: HashSet<StockKey>,
    pub new_redemptions: Vec<Redemption>,
    pub new_conflicts: Vec<Conflict>,
    pub redemptions: HashSet<RedemptionId>,
    pub events: Vec<NewEvent>,
}

impl World {
    pub fn new(now: DateTime<Utc>, zone: Zone) -> Self {
        Self {
            now,
            zone,
            coupons: HashMap::new(),
            members: HashMap::new(),
            rules: HashMap::new(),
            heads: HashMap::new(),
            member_rules: HashMap::new(),
            stocks: HashMap::new(),
            redemptions: HashMap::new(),
            stores: HashMap::new(),
            closed: BTreeMap::new(),
            blocked: Blocked::default(),
            changed: Changed::default(),
        }
    }

    /// Whether a table takes rows of this day.
    ///
    /// # Errors
    /// `month_retired`, with the day under the name that the caller gave it.
    pub fn check_month(&self, table: &str, name: &str, day: Day) -> Result<(), Refusal> {
        match self.closed.is_empty() || !self.closed.contains_key(&plan(table).leaf_date(day.to_date())) {
            true => Ok(()),
            false => Err(Refusal::new(Code::MonthRetired).with(name, day.to_string())),
        }
    }

    /// Of these requests, those that need nothing that somebody else holds.
    pub(super) fn open<'o>(&self, ops: &[&'o CouponOp]) -> Vec<&'o CouponOp> {
        ops.iter().copied().filter(|op| !op.act.is_blocked(self)).collect()
    }

    /// Of these coupons, those that are neither among the rows nor held by somebody else.
    pub fn absent<'c>(&self, code_ids: &'c BTreeSet<CodeId>) -> impl Iterator<Item = &'c CodeId> {
        code_ids.iter().filter(|id| !self.coupons.contains_key(id) && !self.blocked.coupons.contains(id))
    }

    /// Why a coupon is not among the rows.
    pub fn missing(&self, code_id: CodeId) -> Refusal {
        match self.closed.get(&plan("coupon").leaf_i64(code_id.get())) {
            Some(Closed::Retired) => Code::CouponRetired.into(),
            Some(Closed::Absent) | None => Code::CouponNotFound.into(),
        }
    }

    /// Puts a coupon back after a transition and notes what has to be written.
    pub fn put_coupon(&mut self, after: Coupon) {
        let before = self.coupons.insert(after.code_id, after.clone());
        let state_changed = before.is_none_or(|before| before.state.number() != after.state.number());
        *self.changed.coupons.entry(after.code_id).or_default() |= state_changed;
    }

    /// A stock row as the decisions so far have left it.
    pub fn stock(&self, key: StockKey) -> Stock {
        *self.stocks.get(&key).expect("the writer locked every stock row that a decision may touch")
    }

    pub fn change_stock(&mut self, key: StockKey, change: impl FnOnce(&mut Stock)) {
        change(self.stocks.get_mut(&key).expect("the writer locked every stock row that a decision may touch"));
        self.changed.stocks.insert(key);
    }

    /// Does something to these coupons and the counts of these rules, or nothing.
    ///
    /// # Errors
    /// That of `act`, after which everything is as before.
    pub fn attempt<T>(
        &mut self,
        codes: &[CodeId],
        rules: &[RuleId],
        act: impl FnOnce(&mut World) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let of = |rule_id: &RuleId| rules.contains(rule_id);
        let coupons: Vec<_> = codes
            .iter()
            .map(|code| (*code, self.coupons.get(code).cloned(), self.changed.coupons.get(code).copied()))
            .collect();
        let stocks: Vec<_> = self.stocks.iter().filter(|(key, _)| of(&key.0)).map(|(key, row)| (*key, *row)).collect();
        let counts: Vec<_> =
            self.member_rules.iter().filter(|(key, _)| of(&key.1)).map(|(key, row)| (*key, *row)).collect();
        let (uses, events) = (self.changed.new_redemptions.len(), self.changed.events.len());
        let outcome = act(self);
        if outcome.is_err() {
            for (code, coupon, changed) in coupons {
                if let Some(coupon) = coupon {
                    self.coupons.insert(code, coupon);
                }
                match changed {
                    Some(changed) => drop(self.changed.coupons.insert(code, changed)),
                    None => drop(self.changed.coupons.remove(&code)),
                }
            }
            self.stocks.extend(stocks);
            self.member_rules.extend(counts);
            self.changed.new_redemptions.truncate(uses);
            self.changed.events.truncate(events);
        }
        outcome
    }
}
