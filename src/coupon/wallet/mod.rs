//! A member's wallet: the coupons that can be used now, and what each would take off a basket.
//!
//! It is read from `coupon_receive` by one statement on one leaf; what a coupon gives comes from the rules in memory. So
//! it costs the same however long ago the coupons were issued. Two things it does not know, since only `coupon` does: a
//! lock of another order, and how many uses of several are left. It is advice; redeeming decides.
//!
//! Of a member with very many coupons the newest [`EXAMINED_MAX`] are looked at, and [`SHOWN_MAX`] shown; `more` says
//! that there may be others.

pub mod http;
pub mod read;

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};
use serde::Serialize;

pub use self::read::{Held, HeldKey, ListHeld};
use super::{
    StateName,
    decide::{Place, check_rule, check_sale, millis},
    desk::{Desk, DeskError},
    rule::{Discount, RuleState, RuleVersion, Validity},
};
use crate::{
    db::lane::Cost,
    id::{CodeId, MemberId, RuleId},
    member::{Standing, state::Action},
    meter::Meter,
    problem::{Code, Refusal},
};

/// Coupons of one member that a wallet, or one page under a filter, looks at.
pub const EXAMINED_MAX: i64 = 2_000;
/// Coupons that a wallet shows.
pub const SHOWN_MAX: usize = 200;

/// What is to be paid.
#[derive(Debug, Clone)]
pub struct Basket {
    /// Payable before any discount, smallest unit.
    pub amount: i64,
    pub currency: Option<String>,
}

/// The coupons that a member can use now.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Wallet {
    /// Without a basket by deadline, the nearest first. With one the coupons that apply come first, those that save most
    /// before the others; then those that do not.
    pub items: Vec<WalletCoupon>,
    /// There may be more than are shown.
    pub more: bool,
}

/// A coupon that its holder can use now.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WalletCoupon {
    pub code: String,
    pub rule_id: RuleId,
    pub name: String,
    pub discount: Discount,
    pub currency: String,
    /// Least payable amount, smallest unit.
    pub threshold: i64,
    /// Exclusive.
    #[serde(serialize_with = "millis")]
    pub valid_until: DateTime<Utc>,
    /// Whether it could be redeemed now, for the basket if one was given.
    pub applies: bool,
    /// What it takes off the basket, smallest unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub saves: Option<i64>,
    /// What redeeming would be refused with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "coupon_below_threshold")]
    pub why: Option<Code>,
    /// What the basket lacks for the threshold, smallest unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub missing: Option<i64>,
}

/// Whether a coupon applies, by the checks of redeeming in their order, as far as they need no coupon row.
fn judge(
    rule: &RuleVersion,
    state: RuleState,
    standing: Standing,
    now: DateTime<Utc>,
    place: Option<&Place>,
    basket: Option<&Basket>,
) -> Result<Option<i64>, Refusal> {
    standing.may(Action::Redeem)?;
    check_rule(rule, state, place)?;
    if matches!(rule.validity, Validity::Fixed { from: Some(from), .. } if now < from) {
        return Err(Code::CouponNotYetValid.into());
    }
    basket.map(|basket| check_sale(rule, basket.amount, basket.currency.as_deref())).transpose()
}

/// Best first: what applies by what it saves, then what lacks least; among equals the nearest deadline.
fn sort(items: &mut [(CodeId, WalletCoupon)]) {
    items.sort_by_key(|(code_id, coupon)| {
        let saves = std::cmp::Reverse(coupon.saves.unwrap_or(0));
        (!coupon.applies, saves, coupon.missing.unwrap_or(0), coupon.valid_until, *code_id)
    });
}

impl Desk {
    /// The newest coupons of a member below a code.
    ///
    /// # Errors
    /// [`DeskError::Lane`].
    pub async fn list_held(&self, key: HeldKey) -> Result<(Arc<[Held]>, Cost), DeskError> {
        let (rows, cost) = self.held.find(key).await?;
        Ok((rows.unwrap_or_default(), cost))
    }

    /// What a member can use now, at a place if there is one.
    ///
    /// # Errors
    /// [`DeskError`]
    pub async fn wallet(
        &self,
        member_id: MemberId,
        standing: Standing,
        place: Option<&Place>,
        basket: Option<&Basket>,
    ) -> Result<(Wallet, Meter), DeskError> {
        let now = self.clock.now();
        let key = HeldKey { member_id, before: CodeId::MAX, rows_max: EXAMINED_MAX };
        let (held, cost) = self.list_held(key).await?;
        let usable: Vec<&Held> = held.iter().filter(|coupon| coupon.state(now) == StateName::Issued).collect();
        let wanted: BTreeSet<(RuleId, i32)> =
            usable.iter().map(|coupon| (coupon.rule_id, coupon.rule_version)).collect();
        let (rules, asked) = self.rules.versions(&wanted, self.office.get()).await?;
        let mut items = Vec::with_capacity(usable.len());
        for coupon in usable {
            let Some((rule, state)) = rules.get(&(coupon.rule_id, coupon.rule_version)) else {
                return Err(sqlx::Error::Decode(
                    format!("coupon_receive.rule_id {} is no rule", coupon.rule_id).into(),
                )
                .into());
            };
            let (saves, refusal) = match judge(rule, *state, standing, now, place, basket) {
                Ok(saves) => (saves, None),
                Err(refusal) => (None, Some(refusal)),
            };
            items.push((
                coupon.code_id,
                WalletCoupon {
                    code: self.secrets.codes().format(coupon.code_id),
                    rule_id: coupon.rule_id,
                    name: rule.name.clone(),
                    discount: rule.discount.clone(),
                    currency: rule.currency.clone(),
                    threshold: rule.threshold,
                    valid_until: coupon.valid_until,
                    applies: refusal.is_none(),
                    saves,
                    missing: refusal.as_ref().and_then(|refusal| refusal.extra.get("missing")?.as_i64()),
                    why: refusal.map(|refusal| refusal.code),
                },
            ));
        }
        sort(&mut items);
        let more = items.len() > SHOWN_MAX || held.len() as i64 == EXAMINED_MAX;
        items.truncate(SHOWN_MAX);
        let mut meter = Meter::from(cost);
        meter.statements += asked;
        Ok((Wallet { items: items.into_iter().map(|(_, coupon)| coupon).collect(), more }, meter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        coupon::rule::{GiftSku, Places},
        id::StoreNo,
        member::{Kind, State},
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn rule(discount: Discount, threshold: i64, from: Option<i64>) -> RuleVersion {
        RuleVersion {
            threshold,
            validity: Validity::Fixed { from: from.map(at), until: at(1000) },
            ..RuleVersion::plain("1".parse().unwrap(), discount)
        }
    }

    fn off(amount: i64) -> Discount {
        Discount::AmountOff { amount }
    }

    fn store(no: i32) -> Place {
        Place {
            store_no: StoreNo::new(no),
            store_id: format!("S{no}").into(),
            regions: [Arc::from("east")].into(),
            register: None,
            sequence: None,
        }
    }

    #[test]
    fn a_coupon_applies_as_redeeming_would_say_in_its_order() {
        let normal = Standing { state: State::Normal, kind: Kind::Ordinary, muted: false };
        let frozen = Standing { state: State::Frozen, ..normal };
        let cancelled = Standing { state: State::Cancelled, ..normal };
        let basket = |amount, currency: &str| Some(Basket { amount, currency: Some(currency.into()) });
        let (plain, later) = (rule(off(1000), 5000, None), rule(off(1000), 5000, Some(10)));
        let places = Places { stores_in: Some(vec![StoreNo::new(1)]), ..Places::default() };
        let (there, later_there) =
            (RuleVersion { places: places.clone(), ..plain.clone() }, RuleVersion { places, ..later.clone() });
        let not_east = Places { regions_out: vec!["east".into()], ..Places::default() };
        let not_east = RuleVersion { places: not_east, ..plain.clone() };
        let (active, paused) = (RuleState::Active, RuleState::Paused);
        for (number, (rule, state, standing, at_store, basket, expected)) in [
            (&plain, active, normal, None, None, Ok(None)),
            (&plain, active, normal, None, basket(8000, "CNY"), Ok(Some(1000))),
            (&plain, active, normal, Some(2), basket(5000, "CNY"), Ok(Some(1000))),
            (&plain, RuleState::Ended, normal, None, basket(8000, "CNY"), Ok(Some(1000))),
            (&plain, active, normal, None, basket(4999, "CNY"), Err((Code::CouponBelowThreshold, Some(1)))),
            (&plain, active, normal, None, basket(1, "USD"), Err((Code::CouponCurrencyMismatch, None))),
            (&later, active, normal, None, basket(1, "USD"), Err((Code::CouponNotYetValid, None))),
            (&there, active, normal, Some(1), basket(8000, "CNY"), Ok(Some(1000))),
            (&there, active, normal, None, basket(8000, "CNY"), Ok(Some(1000))),
            (&there, active, normal, Some(2), None, Err((Code::CouponNotForStore, None))),
            (&not_east, active, normal, Some(1), None, Err((Code::CouponNotForStore, None))),
            (&later_there, active, normal, Some(2), basket(1, "USD"), Err((Code::CouponNotForStore, None))),
            (&later_there, paused, normal, Some(2), basket(1, "USD"), Err((Code::RuleNotActive, None))),
            (&later_there, paused, frozen, Some(2), basket(1, "USD"), Err((Code::MemberFrozen, None))),
            (&plain, active, cancelled, None, None, Err((Code::MemberCancelled, None))),
        ]
        .into_iter()
        .enumerate()
        {
            let place = at_store.map(store);
            let judged = judge(rule, state, standing, at(0), place.as_ref(), basket.as_ref());
            let missing = |refusal: &Refusal| refusal.extra.get("missing").and_then(|missing| missing.as_i64());
            assert_eq!(judged.map_err(|refusal| (refusal.code, missing(&refusal))), expected, "row {number}");
        }
        let gift = Discount::Gift { sku: GiftSku::parse("6901").unwrap(), amount: 300 };
        for (discount, saves) in [
            (off(9000), 8000),
            (Discount::PercentOff { basis_points: 1250, cap: None }, 1000),
            (Discount::PercentOff { basis_points: 1250, cap: Some(700) }, 700),
            (Discount::FixedPrice { amount: 990 }, 7010),
            (gift, 300),
        ] {
            let of = rule(discount, 0, None);
            let judged = judge(&of, active, normal, at(0), None, basket(8000, "CNY").as_ref());
            assert_eq!(judged, Ok(Some(saves)), "{:?}", of.discount);
        }
    }

    #[test]
    fn the_best_comes_first() {
        let coupon = |name: &str, saves: Option<i64>, missing: Option<i64>, until: i64| WalletCoupon {
            code: String::new(),
            rule_id: "1".parse().unwrap(),
            name: name.into(),
            discount: Discount::AmountOff { amount: 1 },
            currency: "CNY".into(),
            threshold: 0,
            valid_until: at(until),
            applies: saves.is_some(),
            saves,
            why: None,
            missing,
        };
        let id = |n: i64| CodeId::new(n).unwrap();
        let mut items = vec![
            (id(1), coupon("lacks more", None, Some(900), 1)),
            (id(2), coupon("late", Some(500), None, 9)),
            (id(3), coupon("soon", Some(500), None, 5)),
            (id(4), coupon("most", Some(700), None, 9)),
            (id(5), coupon("lacks less", None, Some(100), 9)),
        ];
        sort(&mut items);
        let names: Vec<&str> = items.iter().map(|(_, coupon)| coupon.name.as_str()).collect();
        assert_eq!(names, ["most", "soon", "late", "lacks less", "lacks more"]);
    }
}
