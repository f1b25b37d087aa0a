//! The batch of coupon writes: claim, lock, decide in order of arrival, write what was granted.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    decide::{self, Issue, Redeem, Reverse},
    rule_cache::RuleBook,
    store,
    world::World,
};
use crate::{
    chain::names::StoreNames,
    clock::{Clock, Zone},
    db::lane::{Tx, WriteError, Writer},
    event,
    id::{CodeId, MemberId, RuleId, StoreNo},
    member,
    request::store::{Answer, Claim, Ticket, claim, look_up, update_answers},
};

/// One coupon request, with the number that makes it repeatable.
#[derive(Debug)]
pub struct CouponOp {
    pub ticket: Ticket,
    pub act: Act,
}

#[derive(Debug)]
pub enum Act {
    Redeem(Redeem),
    Reverse(Reverse),
    Issue(Issue),
}

impl Act {
    /// The coupon whose row must be locked; new coupons have none.
    fn code_id(&self) -> Option<CodeId> {
        match self {
            Act::Redeem(op) => Some(op.code_id),
            Act::Reverse(op) => Some(op.code_id),
            Act::Issue(_) => None,
        }
    }

    fn decide(&self, world: &mut World) -> Answer {
        match self {
            Act::Redeem(op) => Answer::decided(200, decide::redeem(world, op)),
            Act::Reverse(op) => Answer::decided(200, decide::reverse(world, op)),
            Act::Issue(op) => Answer::decided(201, decide::issue(world, op)),
        }
    }
}

pub struct CouponWriter {
    pub clock: Clock,
    pub zone: Zone,
    pub rules: RuleBook,
    pub stores: StoreNames,
}

impl Writer for CouponWriter {
    type Op = CouponOp;
    type Answer = Answer;

    const NAME: &'static str = "coupon";

    fn weight(&self, op: &CouponOp) -> usize {
        match &op.act {
            Act::Redeem(_) | Act::Reverse(_) => 1,
            Act::Issue(issue) => issue.code_ids.len().max(1),
        }
    }

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<CouponOp>]) -> Result<Vec<Answer>, WriteError> {
        let now = self.clock.now();
        let tickets: Vec<Option<&Ticket>> = ops.iter().map(|op| Some(&op.ticket)).collect();
        let claims = claim(tx, now, &tickets).await?;
        let live: Vec<&CouponOp> =
            ops.iter().zip(&claims).filter(|(_, claim)| **claim == Claim::Won).map(|(op, _)| &**op).collect();
        let mut world = self.load(tx, World::new(now, self.zone), &live).await?;
        // Locks may have been waited for: what is decided and recorded is of now.
        world.now = self.clock.now();

        // In order of arrival, each seeing those before it.
        let mut answers: Vec<Answer> = Vec::with_capacity(ops.len());
        for (op, claim) in ops.iter().zip(&claims) {
            let answer = match claim {
                Claim::Won => op.act.decide(&mut world),
                Claim::Answered(answer) => answer.clone(),
                Claim::Follows(leader) => Answer { replayed: true, ..answers[*leader].clone() },
            };
            answers.push(answer);
        }
        let decided: Vec<(&Ticket, &Answer)> = ops
            .iter()
            .zip(&claims)
            .zip(&answers)
            .filter(|((_, claim), _)| **claim == Claim::Won)
            .map(|((op, _), answer)| (&op.ticket, answer))
            .collect();
        update_answers(tx, &decided).await?;
        write(tx, world).await?;
        Ok(answers)
    }

    async fn look_up(&self, tx: &mut Tx<'_>, op: &CouponOp) -> Result<Option<Answer>, WriteError> {
        look_up(tx, self.clock.now(), &op.ticket).await
    }

    fn settle(&self, _: &CouponOp, decided: Answer, found: Answer) -> Answer {
        decided.settled(found)
    }
}

impl CouponWriter {
    /// Locks and reads what the requests are about, in the lock order of [`store`].
    async fn load(&self, tx: &mut Tx<'_>, mut world: World, ops: &[&CouponOp]) -> Result<World, WriteError> {
        let code_ids: BTreeSet<CodeId> = ops.iter().filter_map(|op| op.act.code_id()).collect();
        if !code_ids.is_empty() {
            world.coupons = store::lock_coupons(tx, code_ids.into_iter().collect()).await?;
        }
        let mut members: BTreeSet<MemberId> = BTreeSet::new();
        let mut issued: BTreeSet<RuleId> = BTreeSet::new();
        let mut taken: BTreeSet<(MemberId, RuleId)> = BTreeSet::new();
        let mut undone = BTreeSet::new();
        for op in ops {
            match &op.act {
                Act::Redeem(redeem) => {
                    members.extend(world.coupons.get(&redeem.code_id).and_then(|coupon| coupon.holder));
                }
                Act::Reverse(reverse) => {
                    undone.insert(reverse.redemption_id);
                }
                Act::Issue(issue) => {
                    issued.insert(issue.rule.rule_id);
                    members.extend(issue.member_id);
                    taken.extend(issue.member_id.map(|member_id| (member_id, issue.rule.rule_id)));
                }
            }
        }
        if !members.is_empty() {
            world.members = member::store::standings(tx, members.into_iter().collect()).await?;
        }
        // A count is made only for a member that exists.
        taken.retain(|(member_id, _)| world.members.contains_key(member_id));
        if !taken.is_empty() {
            world.member_rules = store::lock_member_rules(tx, taken.into_iter().collect()).await?;
        }
        if !issued.is_empty() {
            let keys = issued.iter().map(|rule_id| (*rule_id, 0, 0)).collect();
            world.stocks = store::lock_stocks(tx, keys).await?;
        }
        if !undone.is_empty() {
            world.redemptions = store::lock_redemptions(tx, undone.into_iter().collect()).await?;
        }
        self.rules.load_for(tx, &mut world, &issued).await?;
        let stores: BTreeSet<StoreNo> =
            world.coupons.values().filter_map(|coupon| Some(coupon.last_use.as_ref()?.store_no)).collect();
        world.stores = self.stores.of(tx, stores).await?;
        // A request may be refused for what one before it in this batch does, at that one's store.
        for op in ops {
            if let Act::Redeem(redeem) = &op.act {
                world.stores.insert(redeem.store_no, Arc::clone(&redeem.store_id));
            }
        }
        Ok(world)
    }
}

async fn write(tx: &mut Tx<'_>, world: World) -> Result<(), WriteError> {
    let World { now, coupons, member_rules, stocks, redemptions, changed, .. } = world;
    if !changed.coupons.is_empty() {
        let rows: Vec<_> = changed.coupons.iter().map(|(id, state_changed)| (&coupons[id], *state_changed)).collect();
        store::update_coupons(tx, &rows).await?;
    }
    if !changed.new_coupons.is_empty() {
        store::insert_coupons(tx, &changed.new_coupons).await?;
    }
    if !changed.member_rules.is_empty() {
        store::update_member_rules(tx, changed.member_rules.iter().map(|key| (*key, member_rules[key])).collect())
            .await?;
    }
    if !changed.stocks.is_empty() {
        store::update_stocks(tx, changed.stocks.iter().map(|key| (*key, stocks[key])).collect()).await?;
    }
    if !changed.new_redemptions.is_empty() {
        store::insert_redemptions(tx, &changed.new_redemptions).await?;
    }
    if !changed.redemptions.is_empty() {
        let rows: Vec<_> = changed.redemptions.iter().map(|id| &redemptions[id]).collect();
        store::update_redemptions(tx, &rows).await?;
    }
    if !changed.events.is_empty() {
        event::store::insert(tx, now, &changed.events).await?;
    }
    Ok(())
}
