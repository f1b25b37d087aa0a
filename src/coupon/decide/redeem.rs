//! Spending one use.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Place, check_sale, check_usable, head_of, limit::take_money, millis, note, rule_of, why_not};
use crate::{
    coupon::{
        StateName, Use,
        answer::by_id,
        world::{LedgerKind, Redemption, World},
    },
    event::Kind as EventKind,
    id::{CodeId, EventId, MemberId, RedemptionId},
    member::state::Action,
    problem::Refusal,
};

/// A till spends one use of a coupon.
#[derive(Debug, Clone)]
pub struct Redeem {
    pub code_id: CodeId,
    pub redemption_id: RedemptionId,
    pub event_id: EventId,
    pub place: Place,
    pub order_ref: String,
    /// Payable before the discount, smallest unit.
    pub amount: i64,
    /// What the amount is made of, so that lines may be returned; may be empty.
    pub lines: Vec<(String, i64)>,
    /// Checked against the rule's when given.
    pub currency: Option<String>,
    /// Checked against the holder when both are given.
    pub member_id: Option<MemberId>,
    /// When it was, as the till says, of a use that is sent afterwards: validity is judged by it.
    pub occurred_at: Option<DateTime<Utc>>,
}

/// A line of a sale with its share of the discount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Line {
    pub line: String,
    /// Payable before the discount, smallest unit.
    pub amount: i64,
    /// Its share, smallest unit.
    pub discount: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub returned: bool,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Redeemed)]
pub struct Redeemed {
    pub redemption_id: RedemptionId,
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String, example = "7K3M-0000-0000-0000")]
    pub code: CodeId,
    /// `redeemed` when the last use is spent, else `issued`.
    pub state: StateName,
    /// Taken off the amount, smallest unit.
    pub discount: i64,
    /// Left to pay, smallest unit.
    pub payable: i64,
    pub currency: String,
    /// Of a gift, the product.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gift_sku: Option<String>,
    /// What each line has of the discount, when lines were sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
    pub uses: i16,
    pub uses_max: i16,
    #[serde(serialize_with = "millis")]
    pub redeemed_at: DateTime<Utc>,
    #[schema(value_type = String)]
    pub store_id: Arc<str>,
    pub order_ref: String,
}

/// Spends one use. No more than `payable` is taken off, which other coupons of the sale may have lowered.
///
/// # Errors
/// The first refusal in the order of the table in [`crate::coupon`].
pub fn redeem(world: &mut World, op: &Redeem, payable: i64) -> Result<Redeemed, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or_else(|| world.missing(op.code_id))?;
    let rule = rule_of(world, &coupon);
    let (store_no, day) = (op.place.store_no, op.redemption_id.day());
    let at = op.occurred_at.unwrap_or(world.now);
    let this = Use { redemption_id: op.redemption_id, at, store_no, order_ref: op.order_ref.clone() };
    let after = coupon.clone().redeem(this, rule.uses, world.now).map_err(|code| why_not(world, &coupon, code))?;
    check_usable(world, &coupon, op.member_id, &op.place, Action::Redeem, op.occurred_at)?;
    coupon.check_business_day(day)?;
    world.check_month("redemption", "business_date", day)?;
    coupon.check_validity(at)?;
    let discount = check_sale(&rule, op.amount, op.currency.as_deref())?.min(payable);
    let head = head_of(world, coupon.rule_id);
    let counted = take_money(world, &head.current, day, store_no, discount)?;
    let lines = shares(&op.lines, op.amount, discount);
    let done = Redeemed {
        redemption_id: op.redemption_id,
        code: op.code_id,
        state: after.state_name(world.now),
        discount,
        payable: payable - discount,
        currency: rule.currency.clone(),
        gift_sku: rule.discount.gift_sku().map(str::to_owned),
        lines: lines.clone(),
        uses: after.uses,
        uses_max: rule.uses,
        redeemed_at: at,
        store_id: Arc::clone(&op.place.store_id),
        order_ref: op.order_ref.clone(),
    };
    let row = Redemption {
        redemption_id: op.redemption_id,
        kind: LedgerKind::Redeem,
        code_id: op.code_id,
        rule_id: coupon.rule_id,
        rule_version: coupon.rule_version,
        member_id: coupon.holder,
        recorded_at: world.now,
        occurred_at: op.occurred_at,
        amount: op.amount,
        discount,
        reverses: None,
        reversed: 0,
        returned: 0,
        reversed_whole: false,
        counted,
        lines,
        store_no,
        register: op.place.register.clone(),
        sequence: op.place.sequence,
        order_ref: op.order_ref.clone(),
    };
    note(world, op.event_id, EventKind::CouponRedeemed, op.code_id, &row, &op.place.store_id);
    world.changed.new_redemptions.push(row);
    world.put_coupon(after);
    Ok(done)
}

/// Splits a discount over lines in proportion to their amounts, to the smallest unit: what is left over goes to the
/// lines that lost most by rounding, the first of equals first.
fn shares(lines: &[(String, i64)], amount: i64, discount: i64) -> Vec<Line> {
    if amount <= 0 {
        let line =
            |(line, amount): &(String, i64)| Line { line: line.clone(), amount: *amount, discount: 0, returned: false };
        return lines.iter().map(line).collect();
    }
    let exact = |line: i64| i128::from(discount) * i128::from(line);
    let whole = i128::from(amount);
    let mut found: Vec<Line> = lines
        .iter()
        .map(|(line, amount)| Line {
            line: line.clone(),
            amount: *amount,
            discount: i64::try_from(exact(*amount) / whole).expect("a share is no larger than the discount"),
            returned: false,
        })
        .collect();
    let mut left = discount - found.iter().map(|line| line.discount).sum::<i64>();
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by_key(|position| std::cmp::Reverse(exact(lines[*position].1) % whole));
    for position in order {
        if left == 0 {
            break;
        }
        found[position].discount += 1;
        left -= 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_share_a_discount_to_the_smallest_unit() {
        for (amounts, discount, expected) in [
            (&[100, 100, 100][..], 100, &[34, 33, 33][..]),
            (&[1, 999], 1, &[0, 1]),
            (&[500, 0, 500], 3, &[2, 0, 1]),
            (&[10], 10, &[10]),
            (&[], 5, &[]),
        ] {
            let lines: Vec<(String, i64)> = amounts.iter().map(|amount| ("l".to_owned(), *amount)).collect();
            let shared = shares(&lines, amounts.iter().sum(), discount);
            let got: Vec<i64> = shared.iter().map(|line| line.discount).collect();
            assert_eq!(got, expected, "{amounts:?}");
        }
    }
}
