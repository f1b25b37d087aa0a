//! Rules: what a coupon is worth, for whom and for how long. A version never changes once it is written.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Zone,
    http::input,
    id::{Day, RuleId},
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
    /// Coupons in all; `None` is unlimited.
    pub stock: Option<i64>,
    /// Coupons one member may take; `None` is unlimited.
    pub per_member: Option<i32>,
    pub uses: i16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Discount {
    /// So much off, in the smallest unit of the currency.
    AmountOff {
        #[serde(deserialize_with = "discount_amount")]
        #[schema(minimum = 1, maximum = 1_000_000_000_000i64)]
        amount: i64,
    },
}

fn discount_amount<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    input::kept::<D, 1, 1_000_000_000_000>(deserializer).map(input::Int::get)
}

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
    pub current: std::sync::Arc<RuleVersion>,
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

    /// What a use takes off an amount: never more than is payable.
    pub fn discount_on(&self, amount: i64) -> i64 {
        match self.discount {
            Discount::AmountOff { amount: off } => off.min(amount),
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
}
