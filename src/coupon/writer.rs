//! The batch of coupon writes: claim, lock, decide in order of arrival, write what was granted. Coupons, members and
//! numbers that somebody else holds are not waited for: who needs them is put aside.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use super::{
    decide::{self, Basket, Bind, Issue, Lock, Part, Redeem, Release, Reverse, Void},
    rule_cache::RuleBook,
    store::{self, CouponRow},
    warm::Warmth,
    world::{StockKey, World},
};
use crate::{
    chain::names::StoreNames,
    clock::{Clock, Zone},
    db::{
        lane::{Tx, WriteError, Writer},
        refused_by,
    },
    event,
    id::{CodeId, MemberId, RedemptionId, RuleId, StoreNo},
    member,
    partition::{self, Leaf, plan},
    problem::Refusal,
    request::store::{Answer, Claim, Ticket, claim_and_fetch, insert_answers, look_up},
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
    Basket(Basket),
    Reverse(Reverse),
    Issue(Issue),
    /// Nothing is done: what stands in the way was seen before, and is told if nothing was answered under the number.
    Refuse(Refusal),
    Lock(Lock),
    Release(Release),
    Void(Void),
    Bind(Bind),
}

impl Act {
    /// The coupons whose rows must be locked; new coupons have none.
    pub(super) fn code_ids(&self) -> Vec<CodeId> {
        match self {
            Act::Redeem(op) => vec![op.code_id],
            Act::Basket(op) => op.uses.iter().map(|redeem| redeem.code_id).collect(),
            Act::Reverse(op) => vec![op.code_id],
            Act::Lock(op) => vec![op.code_id],
            Act::Release(op) => vec![op.code_id],
            Act::Void(op) => vec![op.code_id],
            Act::Bind(op) => vec![op.code_id],
            Act::Issue(_) | Act::Refuse(_) => Vec::new(),
        }
    }

    /// The members whose standing it looks at.
    fn members(&self, world: &World) -> Vec<MemberId> {
        match self {
            Act::Issue(issue) => issue.member_id.into_iter().collect(),
            Act::Bind(bind) => vec![bind.member_id],
            Act::Redeem(_) | Act::Basket(_) | Act::Lock(_) | Act::Void(_) => {
                self.code_ids().iter().filter_map(|code_id| world.coupons.get(code_id)?.holder).collect()
            }
            Act::Reverse(_) | Act::Release(_) | Act::Refuse(_) => Vec::new(),
        }
    }

    /// Whether somebody else holds what it needs.
    pub(super) fn is_blocked(&self, world: &World) -> bool {
        let blocked = &world.blocked;
        !blocked.is_empty()
            && (self.code_ids().iter().any(|code_id| blocked.coupons.contains(code_id))
                || self.members(world).iter().any(|member_id| blocked.members.contains(member_id)))
    }

    /// Whether it may change what the index rows of its coupons say.
    fn changes_state(&self) -> bool {
        matches!(self, Act::Redeem(_) | Act::Basket(_) | Act::Reverse(_) | Act::Void(_) | Act::Bind(_))
    }

    /// The months that it may write rows of.
    fn months(&self) -> BTreeSet<Leaf> {
        let (coupon, ledger) = (plan("coupon"), plan("redemption"));
        let mut months: BTreeSet<Leaf> = self.code_ids().iter().map(|id| coupon.leaf_i64(id.get())).collect();
        months.extend(self.uses().iter().map(|redeem| ledger.leaf_i64(redeem.redemption_id.get())));
        match self {
            Act::Issue(op) => drop(months.insert(coupon.leaf_date(op.day.to_date()))),
            Act::Reverse(op) => {
                months.extend([op.reversal_id, op.redemption_id].map(|id| ledger.leaf_i64(id.get())));
            }
            _ => {}
        }
        months
    }

    /// The uses that it spends.
    fn uses(&self) -> &[Redeem] {
        match self {
            Act::Redeem(op) => std::slice::from_ref(op),
            Act::Basket(op) => &op.uses,
            _ => &[],
        }
    }

    fn decide(&self, world: &mut World) -> Answer {
        match self {
            Act::Redeem(op) => Answer::decided(200, decide::redeem(world, op, op.amount)),
            Act::Basket(op) => Answer::decided(200, decide::redeem_basket(world, op)),
            Act::Reverse(op) => Answer::decided(200, decide::reverse(world, op)),
            Act::Issue(op) => Answer::decided(201, decide::issue(world, op)),
            Act::Refuse(refusal) => Answer::decided::<()>(200, Err(refusal.clone())),
            Act::Lock(op) => Answer::decided(200, decide::lock(world, op)),
            Act::Release(op) => Answer::decided(200, decide::release(world, op)),
            Act::Void(op) => Answer::decided(200, decide::void(world, op)),
            Act::Bind(op) => Answer::decided(200, decide::bind(world, op)),
        }
    }
}

pub struct CouponWriter {
    pub clock: Clock,
    pub zone: Zone,
    pub rules: RuleBook,
    pub stores: StoreNames,
    pub doubts: Doubts,
    pub warmth: Warmth,
}

/// Months that refused a row: a batch asks whether they stand before it decides about them, until they do.
#[derive(Default)]
pub struct Doubts(Mutex<BTreeSet<Leaf>>);

impl Doubts {
    fn leaves(&self) -> MutexGuard<'_, BTreeSet<Leaf>> {
        self.0.lock().expect("no code panics while it holds the months")
    }
}

impl Writer for CouponWriter {
    type Op = CouponOp;
    type Answer = Answer;

    const NAME: &'static str = "coupon";

    fn weight(&self, op: &CouponOp) -> usize {
        match &op.act {
            Act::Basket(basket) => basket.uses.len().max(1),
            Act::Issue(issue) => issue.code_ids.len().max(1),
            _ => 1,
        }
    }

    async fn prepare(&self, ops: &[Arc<CouponOp>]) {
        let codes = |ops: &mut dyn Iterator<Item = &Arc<CouponOp>>| ops.flat_map(|op| op.act.code_ids()).collect();
        let wanted = || (codes(&mut ops.iter()), codes(&mut ops.iter().filter(|op| op.act.changes_state())));
        self.warmth.warm(wanted).await;
    }

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<CouponOp>]) -> Result<Vec<Option<Answer>>, WriteError> {
        let (now, began) = (self.clock.now(), Instant::now());
        let tickets: Vec<Option<&Ticket>> = ops.iter().map(|op| Some(&op.ticket)).collect();
        // Of most batches all claims are won: their coupons are locked in the same message.
        let lock = store::lock_free_coupons(tx, ops.iter().flat_map(|op| op.act.code_ids()));
        let (claims, coupons) = claim_and_fetch::<CouponRow>(tx, &tickets, lock).await?;
        let live: Vec<&CouponOp> =
            ops.iter().zip(&claims).filter(|(_, claim)| **claim == Claim::Won).map(|(op, _)| &**op).collect();
        let wanted: HashSet<CodeId> = live.iter().flat_map(|op| op.act.code_ids()).collect();
        let coupons = coupons.into_iter().filter(|row| wanted.contains(&row.code_id));
        let world = World { coupons: store::coupons_of(coupons)?, ..World::new(now, self.zone) };
        let mut world = self.load(tx, world, &live).await?;
        self.warmth.saw(ops.len(), began.elapsed());
        // Locks may have been waited for: what is decided and recorded is of now.
        world.now = self.clock.now();

        // In order of arrival, each seeing those before it.
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(ops.len());
        let mut decided: Vec<usize> = Vec::with_capacity(ops.len());
        for (position, (op, claim)) in ops.iter().zip(&claims).enumerate() {
            let answer = match claim {
                Claim::Won if op.act.is_blocked(&world) => None,
                Claim::Won => {
                    decided.push(position);
                    Some(op.act.decide(&mut world))
                }
                Claim::Answered(answer) => Some(answer.clone()),
                Claim::Follows(leader) => {
                    answers[*leader].as_ref().map(|answer| Answer { replayed: true, ..answer.clone() })
                }
                Claim::Clashes(leader) => answers[*leader].as_ref().map(|_| Answer::reused()),
                Claim::Busy => None,
            };
            answers.push(answer);
        }
        let decided: Vec<(&Ticket, &Answer)> =
            decided.iter().filter_map(|&at| Some((&ops[at].ticket, answers[at].as_ref()?))).collect();
        if decided.is_empty() {
            tx.keep_nothing();
            return Ok(answers);
        }
        insert_answers(tx, world.now, &decided).await?;
        // What was put off is sent here, so that a month's refusal is told apart.
        let written = async {
            write(tx, world).await?;
            tx.flush().await
        };
        written.await.map_err(|error| self.doubt(error, &live))?;
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
    /// A month that is being put away refuses every row: the batch is decided again, and then it asks.
    pub(super) fn doubt(&self, error: WriteError, ops: &[&CouponOp]) -> WriteError {
        let WriteError::Sql(cause) = &error else { return error };
        let Some(refused) = refused_by(cause) else { return error };
        let of = |table: &str| refused == table || plan(table).leaf_of_name(refused).is_some();
        if !of("coupon") && !of("redemption") {
            return error;
        }
        self.doubts.leaves().extend(ops.iter().flat_map(|op| op.act.months()));
        WriteError::Again("a month takes no rows")
    }

    /// Asks about the months of coupons that are not there, and about those that refused rows before.
    async fn ask_about_months(
        &self,
        tx: &mut Tx<'_>,
        world: &mut World,
        ops: &[&CouponOp],
        code_ids: &BTreeSet<CodeId>,
    ) -> Result<(), WriteError> {
        let mut asked: BTreeSet<Leaf> = BTreeSet::new();
        asked.extend(world.absent(code_ids).map(|code_id| plan("coupon").leaf_i64(code_id.get())));
        let doubted = self.doubts.leaves().clone();
        if !doubted.is_empty() {
            asked.extend(ops.iter().flat_map(|op| op.act.months()).filter(|month| doubted.contains(month)));
        }
        if asked.is_empty() {
            return Ok(());
        }
        tx.plain();
        world.closed = partition::closed(tx.conn().await?, &asked).await?;
        self.doubts.leaves().retain(|month| !asked.contains(month) || world.closed.contains_key(month));
        let closed = &world.closed;
        world.coupons.retain(|code_id, _| !closed.contains_key(&plan("coupon").leaf_i64(code_id.get())));
        Ok(())
    }

    /// Locks and reads what the requests are about, in the lock order of [`store`]; the world has those of their coupons
    /// that were free. Of requests that somebody else's rows keep aside as little as is known then. The rows of the
    /// ledger come before the stock rows that they name: whoever locks one holds the lock of its coupon, or of the one
    /// that the till took it for.
    pub(super) async fn load(&self, tx: &mut Tx<'_>, mut world: World, ops: &[&CouponOp]) -> Result<World, WriteError> {
        let code_ids: BTreeSet<CodeId> = ops.iter().flat_map(|op| op.act.code_ids()).collect();
        let others = code_ids.iter().filter(|id| !world.coupons.contains_key(id)).copied().collect();
        let (waited_for, blocked) = store::lock_or_leave(tx, others).await?;
        world.coupons.extend(waited_for);
        world.blocked.coupons = blocked;
        self.ask_about_months(tx, &mut world, ops, &code_ids).await?;
        let open = world.open(ops);
        let need = Need::of(&world, &open);
        self.rules.load_for(tx, &mut world, &need.issued).await?;
        if !need.members.is_empty() {
            (world.members, world.blocked.members) = member::store::free_standings(tx, need.members).await?;
        }
        let open = world.open(&open);
        // A count is made only for a member that exists.
        let taken: Vec<_> = need.taken.into_iter().filter(|(member, _)| world.members.contains_key(member)).collect();
        if !taken.is_empty() {
            world.member_rules = store::lock_member_rules(tx, taken).await?;
        }
        if !need.undone.is_empty() {
            world.redemptions = store::lock_redemptions(tx, need.undone.into_iter().collect()).await?;
            let closed = &world.closed;
            world.redemptions.retain(|id, _| !closed.contains_key(&plan("redemption").leaf_i64(id.get())));
        }
        let stocks = stock_keys(&world, &open);
        if !stocks.is_empty() {
            world.stocks = store::lock_stocks(tx, stocks.into_iter().collect()).await?;
        }
        let stores: BTreeSet<StoreNo> =
            world.coupons.values().filter_map(|coupon| Some(coupon.last_use.as_ref()?.store_no)).collect();
        world.stores = self.stores.of(tx, stores).await?;
        // A request may be refused for what one before it in this batch does, at that one's store.
        for redeem in ops.iter().flat_map(|op| op.act.uses()) {
            world.stores.insert(redeem.place.store_no, Arc::clone(&redeem.place.store_id));
        }
        Ok(world)
    }
}

/// What the requests of a batch speak of besides their coupons.
#[derive(Default)]
struct Need {
    members: BTreeSet<MemberId>,
    issued: BTreeSet<RuleId>,
    taken: BTreeSet<(MemberId, RuleId)>,
    undone: BTreeSet<RedemptionId>,
}

impl Need {
    fn of(world: &World, ops: &[&CouponOp]) -> Self {
        let mut need = Self::default();
        let coupon = |code_id: &CodeId| world.coupons.get(code_id);
        for op in ops {
            need.members.extend(op.act.members(world));
            match &op.act {
                Act::Reverse(reverse) => {
                    need.undone.extend(coupon(&reverse.code_id).map(|_| reverse.redemption_id));
                }
                Act::Issue(issue) => {
                    need.issued.insert(issue.rule.rule_id);
                    need.taken.extend(issue.member_id.map(|member_id| (member_id, issue.rule.rule_id)));
                }
                Act::Void(void) => {
                    if let Some((holder, coupon)) = coupon(&void.code_id).and_then(|c| Some((c.holder?, c))) {
                        need.taken.insert((holder, coupon.rule_id));
                    }
                }
                Act::Bind(bind) => {
                    need.taken.extend(coupon(&bind.code_id).map(|coupon| (bind.member_id, coupon.rule_id)));
                }
                Act::Redeem(_) | Act::Basket(_) | Act::Lock(_) | Act::Release(_) | Act::Refuse(_) => {}
            }
        }
        need
    }
}

/// The stock rows that decisions may touch: those of the limits that their rules have.
fn stock_keys(world: &World, ops: &[&CouponOp]) -> BTreeSet<StockKey> {
    let mut keys = BTreeSet::new();
    for op in ops {
        match &op.act {
            Act::Issue(issue) => {
                let rule = &world.heads[&issue.rule.rule_id].current;
                let parts = decide::parts_of_issue(rule, issue.day, issue.store_no);
                keys.extend(parts.into_iter().map(|part| part.key(rule.rule_id)));
            }
            Act::Reverse(reverse) => {
                if let Some(used) = world.redemptions.get(&reverse.redemption_id) {
                    let parts = Part::counted(used.counted, used.redemption_id.day(), Some(used.store_no));
                    keys.extend(parts.into_iter().map(|part| part.key(used.rule_id)));
                }
            }
            Act::Void(void) => {
                if let Some(coupon) = world.coupons.get(&void.code_id) {
                    let parts = Part::counted(coupon.counted, coupon.code_id.day(), coupon.issue_store_no);
                    keys.extend(parts.into_iter().map(|part| part.key(coupon.rule_id)));
                }
            }
            _ => {}
        }
        for redeem in op.act.uses() {
            if let Some(coupon) = world.coupons.get(&redeem.code_id) {
                let rule = &world.heads[&coupon.rule_id].current;
                let parts = decide::parts_of_use(rule, redeem.redemption_id.day(), redeem.place.store_no);
                keys.extend(parts.into_iter().map(|part| part.key(rule.rule_id)));
            }
        }
    }
    keys
}

pub(super) async fn write(tx: &mut Tx<'_>, world: World) -> Result<(), WriteError> {
    let World { now, coupons, member_rules, stocks, redemptions, changed, .. } = world;
    if !changed.coupons.is_empty() {
        let rows: Vec<_> = changed.coupons.iter().map(|(id, state_changed)| (&coupons[id], *state_changed)).collect();
        store::update_coupons(tx, &rows).await?;
    }
    if !changed.bound.is_empty() {
        let rows: Vec<_> = changed.bound.iter().map(|id| &coupons[id]).collect();
        store::bind_coupons(tx, &rows).await?;
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
    if !changed.new_conflicts.is_empty() {
        super::offline::store::insert_conflicts(tx, &changed.new_conflicts).await?;
    }
    if !changed.events.is_empty() {
        event::store::insert(tx, now, &changed.events).await?;
    }
    Ok(())
}
