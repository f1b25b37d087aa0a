//! What a batch of coupon requests sees: the locked rows, and what the decisions so far have changed.
//!
//! Each decision sees those before it, since it works on the same rows. Nothing here talks to the database; the writer
//! writes what is marked as changed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    Coupon,
    rule::{RuleState, RuleVersion},
};
use crate::{
    clock::Zone,
    event::NewEvent,
    id::{CodeId, MemberId, RedemptionId, RuleId, StoreNo},
    member::Standing,
};

/// A row of `coupon_stock`: rule, period (0 or business day) and store (0 is all).
pub type StockKey = (RuleId, i32, i32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    pub issued: i64,
    pub voided: i64,
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
    pub amount: i64,
    pub discount: i64,
    pub reverses: Option<RedemptionId>,
    /// Of the discount, taken back so far.
    pub reversed: i64,
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
    pub rule_states: HashMap<RuleId, RuleState>,
    pub member_rules: HashMap<(MemberId, RuleId), MemberRule>,
    pub stocks: HashMap<StockKey, Stock>,
    pub redemptions: HashMap<RedemptionId, Redemption>,
    /// Names of the stores that the rows speak of.
    pub stores: HashMap<StoreNo, Arc<str>>,
    pub changed: Changed,
}

/// What the decisions of a batch have changed and the writer has to write.
#[derive(Default)]
pub struct Changed {
    pub new_coupons: Vec<Coupon>,
    /// With whether the state changed, which index rows carry.
    pub coupons: BTreeMap<CodeId, bool>,
    pub member_rules: HashSet<(MemberId, RuleId)>,
    pub stocks: HashSet<StockKey>,
    pub new_redemptions: Vec<Redemption>,
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
            rule_states: HashMap::new(),
            member_rules: HashMap::new(),
            stocks: HashMap::new(),
            redemptions: HashMap::new(),
            stores: HashMap::new(),
            changed: Changed::default(),
        }
    }

    /// Puts a coupon back after a transition and notes what has to be written.
    pub fn put_coupon(&mut self, after: Coupon) {
        let before = self.coupons.insert(after.code_id, after.clone());
        let state_changed = before.is_none_or(|before| before.state.number() != after.state.number());
        *self.changed.coupons.entry(after.code_id).or_default() |= state_changed;
    }
}
