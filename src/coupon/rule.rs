//! Rules: what a coupon is worth, for whom and for how long. A version never changes once it is written.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Zone,
    http::input,
    id::{Day, RuleId, StoreNo},
    problem::{Code, Refusal},
};

/// What one version of a rule says.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleVersion {
    pub rule_id: RuleId,
    pub version: i32,
    pub name: String,
    pub discount: Discount,
    /// ISO 4217.
    pub currency: String,
    /// Least payable amount, smallest unit.
    pub threshold: i64,
    pub validity: Validity,
    pub stock: Limit,
    /// Money that uses may take off, smallest unit.
    pub budget: Limit,
    /// Coupons one member may take; `None` is unlimited.
    pub per_member: Option<i32>,
    pub uses: i16,
    pub places: Places,
    pub undo: Undo,
    /// Members may take coupons of it themselves.
    pub claimable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Discount {
    /// So much off, in the smallest unit of the currency.
    AmountOff {
        #[serde(deserialize_with = "positive")]
        #[schema(minimum = 1, maximum = 1_000_000_000_000i64)]
        amount: i64,
    },
    /// A share off, rounded down to the smallest unit.
    PercentOff {
        /// Hundredths of a percent: 1250 is 12.5 %.
        #[serde(deserialize_with = "basis_points")]
        #[schema(minimum = 1, maximum = 10_000)]
        basis_points: i32,
        /// Most that is taken off, smallest unit.
        #[serde(default, deserialize_with = "cap", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false, minimum = 1, maximum = 1_000_000_000_000i64)]
        cap: Option<i64>,
    },
    /// What is payable becomes so much; a lower amount stays.
    FixedPrice {
        #[serde(deserialize_with = "not_negative")]
        #[schema(minimum = 0, maximum = 1_000_000_000_000i64)]
        amount: i64,
    },
    /// A product for nothing. The till puts it in the basket at its price; so much of that is taken off.
    Gift {
        sku: GiftSku,
        /// Most that is taken off, smallest unit.
        #[serde(deserialize_with = "not_negative")]
        #[schema(minimum = 0, maximum = 1_000_000_000_000i64)]
        amount: i64,
    },
}

crate::text_type! {
    /// What the chain calls a product.
    GiftSku: word 1..=64, "6901234567892";
}

fn positive<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    input::kept::<D, 1, 1_000_000_000_000>(deserializer).map(input::Int::get)
}

fn not_negative<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    input::kept::<D, 0, 1_000_000_000_000>(deserializer).map(input::Int::get)
}

fn basis_points<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    input::kept::<D, 1, 10_000>(deserializer).map(|points| points.get() as i32)
}

fn cap<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    positive(deserializer).map(Some)
}

impl Discount {
    pub fn gift_sku(&self) -> Option<&str> {
        match self {
            Discount::Gift { sku, .. } => Some(sku.as_str()),
            _ => None,
        }
    }

    /// The most that a use takes off whatever is payable; none where nothing bounds it.
    pub fn most(&self) -> Option<i64> {
        match self {
            Discount::AmountOff { amount } | Discount::Gift { amount, .. } => Some(*amount),
            Discount::PercentOff { cap, .. } => *cap,
            Discount::FixedPrice { .. } => None,
        }
    }

    /// What a use takes off an amount: never more than is payable.
    pub fn on(&self, amount: i64) -> i64 {
        let off = match self {
            Discount::AmountOff { amount: off } => *off,
            Discount::PercentOff { basis_points, cap } => {
                let share = i128::from(amount) * i128::from(*basis_points) / 10_000;
                let share = i64::try_from(share).expect("a share of at most one is no larger than its whole");
                cap.map_or(share, |cap| share.min(cap))
            }
            Discount::FixedPrice { amount: price } => amount - price,
            Discount::Gift { amount: value, .. } => *value,
        };
        off.clamp(0, amount.max(0))
    }
}

/// How much of something a rule gives, in all and in parts; `None` is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    pub total: Option<i64>,
    /// In one business day.
    pub per_day: Option<i64>,
    /// To one store.
    pub per_store: Option<i64>,
}

impl Limit {
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// Where coupons of a rule may be used. Regions are those that a store is in, directly or through others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// `None` is everywhere; with both, either will do.
    pub stores_in: Option<Vec<StoreNo>>,
    pub regions_in: Option<Vec<Arc<str>>>,
    pub stores_out: Vec<StoreNo>,
    pub regions_out: Vec<Arc<str>>,
}

impl Places {
    /// Whether a store in these regions is one of them. What is out is out, whatever is in.
    pub fn has(&self, store_no: StoreNo, regions: &[Arc<str>]) -> bool {
        let is_out = self.stores_out.contains(&store_no) || regions.iter().any(|id| self.regions_out.contains(id));
        let by_store = self.stores_in.as_ref().map(|stores| stores.contains(&store_no));
        let by_region = self.regions_in.as_ref().map(|wanted| regions.iter().any(|id| wanted.contains(id)));
        let is_in = match (by_store, by_region) {
            (None, None) => true,
            (by_store, by_region) => by_store == Some(true) || by_region == Some(true),
        };
        is_in && !is_out
    }
}

/// How far a use may be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undo {
    /// Days after the use; `None` is for ever.
    pub days: Option<i32>,
    /// Reversals of one coupon.
    pub cycles_max: i16,
}

impl Default for Undo {
    fn default() -> Self {
        Self { days: None, cycles_max: CYCLES_MAX }
    }
}

/// Reversals of one coupon, where a rule does not say otherwise.
pub const CYCLES_MAX: i16 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// The same for every coupon; `until` is exclusive.
    Fixed { from: Option<DateTime<Utc>>, until: DateTime<Utc> },
    /// From issue to the end of the n-th business day after it.
    DaysAfterIssue(i32),
}

/// Whether a rule may be issued and redeemed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleState {
    Draft,
    Active,
    Paused,
    Ended,
}

/// The head of a rule: its state and the version that issuing uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub state: RuleState,
    /// Counts every change; the ETag.
    pub revision: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub current: Arc<RuleVersion>,
}

impl RuleState {
    pub fn number(self) -> i16 {
        match self {
            RuleState::Draft => 1,
            RuleState::Active => 2,
            RuleState::Paused => 3,
            RuleState::Ended => 4,
        }
    }

    pub fn from_number(number: i16) -> Option<Self> {
        [RuleState::Draft, RuleState::Active, RuleState::Paused, RuleState::Ended]
            .into_iter()
            .find(|state| state.number() == number)
    }

    pub fn name(self) -> &'static str {
        match self {
            RuleState::Draft => "draft",
            RuleState::Active => "active",
            RuleState::Paused => "paused",
            RuleState::Ended => "ended",
        }
    }

    /// Where a rule may go from here: draft → active → paused ⇄ active → ended, and ended is the end.
    ///
    /// # Errors
    /// `rule_state_forbidden`.
    pub fn to(self, next: RuleState) -> Result<RuleState, Refusal> {
        use RuleState::{Active, Draft, Ended, Paused};
        match (self, next) {
            (same, next) if same == next => Ok(next),
            (Draft, Active | Ended) | (Active, Paused | Ended) | (Paused, Active | Ended) => Ok(next),
            (from, to) => Err(Refusal::new(Code::RuleStateForbidden).with("from", from.name()).with("to", to.name())),
        }
    }

    /// A paused rule is neither issued nor redeemed; an ended one is redeemed until its coupons expire.
    pub fn may_redeem(self) -> bool {
        matches!(self, RuleState::Active | RuleState::Ended)
    }
}

impl RuleVersion {
    /// The first version of a rule that says nothing more than what its coupons are worth; for tests.
    #[cfg(test)]
    pub(crate) fn plain(rule_id: RuleId, discount: Discount) -> Self {
        Self {
            rule_id,
            version: 1,
            name: "plain".into(),
            discount,
            currency: "CNY".into(),
            threshold: 0,
            validity: Validity::DaysAfterIssue(30),
            stock: Limit::default(),
            budget: Limit::default(),
            per_member: None,
            uses: 1,
            places: Places::default(),
            undo: Undo::default(),
            claimable: false,
        }
    }

    /// The window of a coupon that is issued now; `until` is exclusive.
    ///
    /// # Errors
    /// `rule_not_active` when the window is over.
    pub fn window(&self, now: DateTime<Utc>, zone: Zone) -> Result<(DateTime<Utc>, DateTime<Utc>), Refusal> {
        match self.validity {
            Validity::Fixed { until, .. } if until <= now => Err(Refusal::new(Code::RuleNotActive)
                .detail("The rule's coupons have all expired")
                .with("valid_until", super::instant(until))),
            Validity::Fixed { from, until } => Ok((from.map_or(now, |from| from.max(now)), until)),
            Validity::DaysAfterIssue(days) => {
                let end: Day = zone.day_of(now).plus(days + 1);
                Ok((now, zone.start_of(end)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_moves_only_along_the_table() {
        use RuleState::{Active, Draft, Ended, Paused};
        let allowed = [
            (Draft, Draft),
            (Draft, Active),
            (Draft, Ended),
            (Active, Active),
            (Active, Paused),
            (Active, Ended),
            (Paused, Paused),
            (Paused, Active),
            (Paused, Ended),
            (Ended, Ended),
        ];
        for from in [Draft, Active, Paused, Ended] {
            for to in [Draft, Active, Paused, Ended] {
                assert_eq!(from.to(to).is_ok(), allowed.contains(&(from, to)), "{from:?} to {to:?}");
            }
            assert_eq!(RuleState::from_number(from.number()), Some(from));
        }
    }

    #[test]
    fn a_discount_is_never_above_what_is_payable_and_never_below_nothing() {
        let percent = |basis_points, cap| Discount::PercentOff { basis_points, cap };
        let gift = Discount::Gift { sku: GiftSku::parse("1").unwrap(), amount: 300 };
        for (discount, amount, off) in [
            (Discount::AmountOff { amount: 1000 }, 8000, 1000),
            (Discount::AmountOff { amount: 1000 }, 999, 999),
            (Discount::AmountOff { amount: 1000 }, 0, 0),
            (percent(1250, None), 999, 124),
            (percent(10_000, None), 1_000_000_000_000, 1_000_000_000_000),
            (percent(1, None), 9_999, 0),
            (percent(5000, Some(100)), 1000, 100),
            (percent(5000, Some(100)), 100, 50),
            (Discount::FixedPrice { amount: 990 }, 1500, 510),
            (Discount::FixedPrice { amount: 990 }, 900, 0),
            (Discount::FixedPrice { amount: 0 }, 900, 900),
            (gift.clone(), 1000, 300),
            (gift, 200, 200),
        ] {
            assert_eq!(discount.on(amount), off, "{discount:?} on {amount}");
        }
    }

    #[test]
    fn what_is_out_is_out_and_without_a_list_everything_is_in() {
        let store = StoreNo::new;
        let only = Places { stores_in: Some(vec![store(1)]), ..Places::default() };
        let regions = Places { regions_in: Some(vec!["7".into()]), ..Places::default() };
        let either =
            Places { stores_in: Some(vec![store(1)]), regions_in: Some(vec!["7".into()]), ..Places::default() };
        let but = Places { regions_in: Some(vec!["7".into()]), stores_out: vec![store(2)], ..Places::default() };
        let not_there = Places { regions_out: vec!["7".into()], stores_in: Some(vec![store(1)]), ..Places::default() };
        for (places, no, of, there) in [
            (Places::default(), 1, "", true),
            (only.clone(), 1, "", true),
            (only, 2, "7", false),
            (regions.clone(), 2, "9 7", true),
            (regions, 2, "9", false),
            (either.clone(), 1, "9", true),
            (either, 2, "9 7", true),
            (but.clone(), 1, "7", true),
            (but, 2, "7", false),
            (not_there.clone(), 1, "7", false),
            (not_there, 1, "", true),
        ] {
            let regions: Vec<Arc<str>> = of.split_whitespace().map(Arc::from).collect();
            assert_eq!(places.has(store(no), &regions), there, "{places:?}, store {no} in {of:?}");
        }
    }
}
