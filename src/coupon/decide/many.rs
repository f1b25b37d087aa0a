//! Issuing to many at once: the decisions of a slice of a job.
//!
//! The same limits as of a request, taken from the same rows in the same order; only when the stock is looked at differs,
//! which [`crate::coupon::bulk::place`] tells of.

use std::sync::Arc;

use super::{
    check_standing,
    hold::take_of_member,
    limit::{Part, bits, parts_of_issue, take_stock},
};
use crate::{
    coupon::{
        Coupon, State,
        rule::Rule,
        world::{StockKey, World},
    },
    id::{CodeId, Day, MemberId},
    member::state::Action,
    problem::{Code, Refusal},
};

/// Coupons that a job wants to make, all or none of them.
#[derive(Debug, Clone)]
pub struct Wish {
    pub rule: Arc<Rule>,
    /// Their issue day, whose stock they are taken from.
    pub day: Day,
    pub member_id: Option<MemberId>,
    pub count: i64,
    pub why: Why,
}

/// What the coupons of a wish are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// New ones.
    Issue,
    /// They were given out by another system: a frozen member has them all the same.
    Bring,
    /// The same, and void: they count towards nothing.
    BringVoid,
}

impl Wish {
    /// The stock rows that it is taken from.
    pub fn stocks(&self) -> Vec<StockKey> {
        if self.why == Why::BringVoid {
            return Vec::new();
        }
        let version = &self.rule.current;
        parts_of_issue(version, self.day, None).into_iter().map(|part| part.key(version.rule_id)).collect()
    }
}

/// Takes a wish from the limit of its member, and from the stock if its rows are locked. Gives the bits of what it is taken
/// from.
///
/// # Errors
/// `member_not_found`, `member_frozen`, `member_cancelled`, `member_kind_forbidden`, `stock_exhausted`,
/// `member_limit_reached`, in this order.
pub fn admit(world: &mut World, wish: &Wish, has_stock: bool) -> Result<i16, Refusal> {
    let version = &wish.rule.current;
    if let Some(member_id) = wish.member_id {
        match check_standing(world.members.get(&member_id), member_id, Action::BeIssued) {
            Err(refusal) if refusal.code == Code::MemberFrozen && wish.why != Why::Issue => {}
            other => other?,
        }
    }
    if wish.why == Why::BringVoid {
        return Ok(0);
    }
    let parts = parts_of_issue(version, wish.day, None);
    if has_stock {
        take_stock(world, version, wish.day, None, wish.count)?;
    }
    if let Some(member_id) = wish.member_id
        && let Err(refusal) = take_of_member(world, version.rule_id, member_id, wish.count)
    {
        if has_stock {
            for part in &parts {
                world.change_stock(part.key(version.rule_id), |stock| stock.issued -= wish.count);
            }
        }
        return Err(refusal);
    }
    Ok(bits(&parts))
}

/// Takes a wish that was admitted without its stock from that, now that the rows are locked.
///
/// # Errors
/// `stock_exhausted`.
pub fn take_stock_of(world: &mut World, wish: &Wish) -> Result<(), Refusal> {
    if wish.why == Why::BringVoid {
        return Ok(());
    }
    take_stock(world, &wish.rule.current, wish.day, None, wish.count).map(|_| ())
}

/// What became of a coupon that was to be made void with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    Void,
    WasVoid,
    /// Uses of it stand.
    Used,
    /// Its month was retired.
    Gone,
}

/// Makes a coupon void and takes it off its holder's limit. The stock that it goes back to is the caller's to give.
pub fn undo(world: &mut World, code_id: CodeId, reason: &str) -> (Undone, Vec<StockKey>) {
    let Some(coupon) = world.coupons.get(&code_id) else { return (Undone::Gone, Vec::new()) };
    if coupon.state == State::Void {
        return (Undone::WasVoid, Vec::new());
    }
    let Ok(after) = coupon.clone().void(reason.to_owned()) else { return (Undone::Used, Vec::new()) };
    let Coupon { counted, issue_store_no, rule_id, holder, .. } = after;
    let from = Part::counted(counted, code_id.day(), issue_store_no);
    if let Some(holder) = holder {
        let key = (holder, rule_id);
        let count = world.member_rules.get_mut(&key).expect("the count of every holder is locked");
        count.taken -= 1;
        world.changed.member_rules.insert(key);
    }
    world.put_coupon(after);
    (Undone::Void, from.into_iter().map(|part| part.key(rule_id)).collect())
}
