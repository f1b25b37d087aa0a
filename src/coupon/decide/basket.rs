//! Several coupons in one sale: all are spent or none.

use serde::Serialize;

use super::redeem::{Redeem, Redeemed, redeem};
use crate::{
    coupon::world::World,
    id::{CodeId, RuleId},
    problem::Refusal,
};

/// The coupons of one sale, in the order in which they are taken off.
#[derive(Debug, Clone)]
pub struct Basket {
    /// Payable before any discount, smallest unit.
    pub amount: i64,
    /// `amount` of each is the part of the sale that it may be taken off.
    pub uses: Vec<Redeem>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = BasketRedeemed)]
pub struct BasketRedeemed {
    pub redemptions: Vec<Redeemed>,
    /// Taken off in all, smallest unit.
    pub discount: i64,
    /// Left to pay, smallest unit.
    pub payable: i64,
}

/// Spends a use of each coupon. A coupon's threshold is compared with its part of the sale before any discount; it takes
/// nothing off that those before it took off.
///
/// # Errors
/// That of the first coupon that cannot be spent, with its `position`.
pub fn redeem_basket(world: &mut World, op: &Basket) -> Result<BasketRedeemed, Refusal> {
    let codes: Vec<CodeId> = op.uses.iter().map(|redeem| redeem.code_id).collect();
    let rules: Vec<RuleId> = codes.iter().filter_map(|code| world.coupons.get(code)).map(|c| c.rule_id).collect();
    world.attempt(&codes, &rules, |world| {
        let mut payable = op.amount;
        let mut redemptions = Vec::with_capacity(op.uses.len());
        for (position, part) in op.uses.iter().enumerate() {
            let done = redeem(world, part, payable).map_err(|refusal| refusal.with("position", position))?;
            payable -= done.discount;
            redemptions.push(done);
        }
        Ok(BasketRedeemed { redemptions, discount: op.amount - payable, payable })
    })
}
