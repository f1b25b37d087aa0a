//! The batch of uploads: claim, lock, decide in order, write. As the writer of coupons, whose parts it uses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{Conflict, Item, ItemDone, store};
use crate::{
    coupon::{
        decide, store as coupon_store,
        world::World,
        writer::{Act, CouponOp, CouponWriter, write},
    },
    db::lane::{Tx, WriteError, Writer},
    event::{Kind, NewEvent},
    id::{DAY_END, Day},
    partition::{self, Leaf, plan},
    problem::{Code, Refusal},
    request::{
        self,
        store::{Answer, Claim, Ticket, claim, find_answers, insert_answers, make_sure_of_none},
    },
};

/// A part of an upload, decided in one transaction.
#[derive(Debug)]
pub struct Upload {
    pub items: Vec<Item>,
}

pub struct OfflineWriter {
    pub coupons: CouponWriter,
}

/// Days back from today that have their leaves, as upkeep keeps them.
const LEAVES_BACK: i32 = 30;

impl Writer for OfflineWriter {
    type Op = Upload;
    type Answer = Vec<Answer>;

    const NAME: &'static str = "offline";

    fn weight(&self, op: &Upload) -> usize {
        op.items.len().max(1)
    }

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<Upload>]) -> Result<Vec<Option<Vec<Answer>>>, WriteError> {
        self.take_in(tx, ops).await
    }

    async fn look_up(&self, tx: &mut Tx<'_>, op: &Upload) -> Result<Option<Vec<Answer>>, WriteError> {
        let items: Vec<&Item> = op.items.iter().collect();
        let now = self.coupons.clock.now();
        let placed = self.placed(tx, now, &items).await?;
        let claims = claim_items(tx, now, &items, &placed).await?;
        if claims.contains(&Claim::Busy) {
            return Err(WriteError::Again("an item is being decided about"));
        }
        let none = (0..items.len()).filter(|at| placed[*at] && claims[*at] == Claim::Won);
        make_sure_of_none(tx, now, &none.map(|at| &items[at].identity).collect::<Vec<_>>()).await?;
        let answers: Vec<Option<Answer>> = (0..items.len()).map(|position| answer_of(&claims, position)).collect();
        Ok(answers.into_iter().collect())
    }

    fn settle(&self, _: &Upload, decided: Vec<Answer>, found: Vec<Answer>) -> Vec<Answer> {
        decided.into_iter().zip(found).map(|(decided, found)| decided.settled(found)).collect()
    }
}

/// What was answered to an item before; `None` when it is new.
fn answer_of(claims: &[Claim], position: usize) -> Option<Answer> {
    match &claims[position] {
        Claim::Won | Claim::Busy => None,
        Claim::Answered(answer) => Some(Answer { replayed: false, ..answer.clone() }),
        Claim::Follows(leader) => answer_of(claims, *leader),
        Claim::Clashes(leader) => answer_of(claims, *leader).map(|_| Answer::reused()),
    }
}

/// Claims items by number and content: those that have a place by a number of their own, the others by a row of
/// `redemption_late`.
async fn claim_items(
    tx: &mut Tx<'_>,
    now: DateTime<Utc>,
    items: &[&Item],
    placed: &[bool],
) -> Result<Vec<Claim>, WriteError> {
    let mut late: HashMap<Uuid, usize> = HashMap::new();
    let mut follows: Vec<(usize, usize)> = Vec::new();
    for (position, item) in items.iter().enumerate().filter(|(position, _)| !placed[*position]) {
        match late.entry(item.identity.number.key) {
            Entry::Occupied(leader) => follows.push((position, *leader.get())),
            Entry::Vacant(free) => drop(free.insert(position)),
        }
    }
    let mut answered = HashMap::new();
    if !late.is_empty() {
        answered = store::claim_late(tx, now, late.keys().copied().collect()).await?;
    }
    // One that came when its day had no place, and has one now: it came too early, the window is wider, leaves were made.
    let key = |position: usize| items[position].identity.number.key;
    let old: Vec<usize> = (0..items.len()).filter(|at| placed[*at]).collect();
    if !old.is_empty() {
        answered.extend(store::find_late(tx, old.iter().map(|position| key(*position)).collect()).await?);
    }
    let is_open = |position: usize| placed[position] && !answered.contains_key(&key(position));
    let tickets: Vec<Option<&Ticket>> =
        items.iter().enumerate().map(|(position, item)| is_open(position).then_some(&item.identity)).collect();
    let mut claims = claim(tx, &tickets).await?;
    for position in late.into_values().chain(old) {
        if let Some(answer) = answered.get(&key(position)) {
            claims[position] = Claim::Answered(answer.clone());
        }
    }
    for (position, leader) in follows {
        claims[position] = Claim::Follows(leader);
    }
    Ok(claims)
}

/// A number that another item of the batch has won, for a redemption of the same core, is told by that one.
fn follow_cores(numbers: &mut [Claim], tickets: &[Option<&Ticket>]) {
    for (position, ticket) in tickets.iter().enumerate() {
        let Some(ticket) = ticket else { continue };
        if let Claim::Clashes(leader) = numbers[position]
            && tickets[leader].is_some_and(|of| request::is_of_one_core(of.digest, ticket.digest))
        {
            numbers[position] = Claim::Follows(leader);
        }
    }
}

/// The uploads that are put aside for these items, and those that say something under the same numbers.
fn put_aside(blocked: impl Iterator<Item = usize>, items: &[&Item], upload_of: &[usize]) -> BTreeSet<usize> {
    let mut aside: BTreeSet<usize> = blocked.map(|position| upload_of[position]).collect();
    let keys = |item: &Item| {
        let number = item.number.as_ref().map(|ticket| ticket.number.key);
        number.into_iter().chain([item.identity.number.key])
    };
    let mut before = 0;
    while before < aside.len() {
        before = aside.len();
        let of_aside = items.iter().zip(upload_of).filter(|(_, upload)| aside.contains(upload));
        let held: HashSet<Uuid> = of_aside.flat_map(|(item, _)| keys(item)).collect();
        let joins = items.iter().zip(upload_of).filter(|(item, _)| keys(item).any(|key| held.contains(&key)));
        aside.extend(joins.map(|(_, upload)| *upload));
    }
    aside
}

/// What the claims have told of a batch, before its coupons are looked at.
struct Known {
    placed: Vec<bool>,
    claims: Vec<Claim>,
    /// Whether the till's number was won as well.
    numbers: Vec<Claim>,
    /// What was answered under numbers that were not.
    earlier: HashMap<usize, Answer>,
    /// Where items without a place stand already.
    recorded: HashMap<usize, ItemDone>,
}

impl Known {
    fn is_new(&self, position: usize) -> bool {
        self.claims[position] == Claim::Won
    }

    fn is_busy(&self, position: usize) -> bool {
        [&self.claims, &self.numbers].iter().any(|claims| claims[position] == Claim::Busy)
    }
}

/// What a batch has to write besides what its decisions changed.
struct Decided<'a> {
    /// New items, whether they have a place, and their answers.
    new: Vec<(&'a Item, bool, &'a Answer)>,
    /// What is answered under the till's numbers that were won.
    numbered: &'a [(&'a Ticket, Answer)],
}

impl OfflineWriter {
    /// Whether the leaves are there that an item's day needs. Those of the last weeks are.
    async fn placed(&self, tx: &mut Tx<'_>, now: DateTime<Utc>, items: &[&Item]) -> Result<Vec<bool>, WriteError> {
        let today = self.coupons.zone.day_of(now);
        let sure = today.plus(-LEAVES_BACK)..=today.plus(1);
        let mut unsure: BTreeSet<Leaf> = BTreeSet::new();
        for item in items.iter().filter(|item| item.number.is_some() && !sure.contains(&item.business_day)) {
            unsure.extend(leaves_of(item.business_day));
        }
        let mut closed = BTreeMap::new();
        if !unsure.is_empty() {
            tx.plain();
            closed = partition::closed(tx.conn().await?, &unsure).await?;
        }
        let has_place = |item: &&Item| {
            let day = item.business_day;
            item.number.is_some()
                && (sure.contains(&day) || !leaves_of(day).iter().any(|leaf| closed.contains_key(leaf)))
        };
        Ok(items.iter().map(has_place).collect())
    }

    /// Claims all numbers: of the items first, then those of the redemptions that they would be.
    async fn claims(&self, tx: &mut Tx<'_>, now: DateTime<Utc>, items: &[&Item]) -> Result<Known, WriteError> {
        let placed = self.placed(tx, now, items).await?;
        let claims = claim_items(tx, now, items, &placed).await?;
        let tickets: Vec<Option<&Ticket>> = (0..items.len())
            .map(|position| {
                items[position].number.as_ref().filter(|_| placed[position] && claims[position] == Claim::Won)
            })
            .collect();
        let mut numbers = claim(tx, &tickets).await?;
        follow_cores(&mut numbers, &tickets);
        let mut earlier: HashMap<usize, Answer> = HashMap::new();
        let mut other: HashMap<usize, _> = HashMap::new();
        for (position, number) in numbers.iter().enumerate() {
            match (number, tickets[position]) {
                (Claim::Answered(answer), _) if answer.replayed => drop(earlier.insert(position, answer.clone())),
                // Another body: it may still be the same redemption, said in another way.
                (Claim::Answered(_), Some(ticket)) => {
                    other.extend(ticket.number.days.iter().map(|day| (position, (day, ticket.number.key))));
                }
                _ => {}
            }
        }
        if !other.is_empty() {
            let found = find_answers(tx, other.values().copied().collect()).await?;
            // A refusal says nothing of another redemption, and everything of the same that was said with more.
            let of = |position: &usize, row| {
                let (digest, answer) = found.get(row)?;
                let ticket = tickets[*position]?;
                let tells = answer.status < 400 || request::is_of_one_core(*digest, ticket.digest);
                tells.then(|| (*position, answer.clone()))
            };
            earlier.extend(other.iter().filter_map(|(position, row)| of(position, row)));
        }
        let late: Vec<usize> = (0..items.len())
            .filter(|position| !placed[*position] && claims[*position] == Claim::Won)
            .filter(|position| (0..DAY_END).contains(&items[*position].business_day.number()))
            .filter(|position| !items[*position].is_malformed())
            .collect();
        let mut recorded = HashMap::new();
        if !late.is_empty() {
            let asked: Vec<&Item> = late.iter().map(|position| items[*position]).collect();
            let found = store::find_recorded(tx, &asked).await?;
            recorded = late.into_iter().zip(found).filter_map(|(position, done)| Some((position, done?))).collect();
        }
        Ok(Known { placed, claims, numbers, earlier, recorded })
    }

    /// The answers to each upload, item by item; none to one of which somebody else holds something.
    async fn take_in(&self, tx: &mut Tx<'_>, ops: &[Arc<Upload>]) -> Result<Vec<Option<Vec<Answer>>>, WriteError> {
        let now = self.coupons.clock.now();
        let items: Vec<&Item> = ops.iter().flat_map(|op| &op.items).collect();
        // The upload of each item.
        let upload_of: Vec<usize> =
            ops.iter().enumerate().flat_map(|(upload, op)| std::iter::repeat_n(upload, op.items.len())).collect();
        let known = self.claims(tx, now, &items).await?;
        let busy = put_aside((0..items.len()).filter(|at| known.is_busy(*at)), &items, &upload_of);
        let mut live: Vec<(usize, CouponOp)> = Vec::new();
        for (position, item) in items.iter().enumerate() {
            let open = !busy.contains(&upload_of[position])
                && known.placed[position]
                && known.is_new(position)
                && known.numbers[position] == Claim::Won;
            if open
                && item.refusal.is_none()
                && let (Some(redeem), Some(number)) = (item.redeem()?, &item.number)
            {
                live.push((position, CouponOp { ticket: number.clone(), act: Act::Redeem(redeem) }));
            }
        }
        let live_ops: Vec<&CouponOp> = live.iter().map(|(_, op)| op).collect();
        let lock = coupon_store::lock_free_coupons(tx, live_ops.iter().flat_map(|op| op.act.code_ids()));
        let coupons = coupon_store::coupons_of(tx.fetch(lock).await?)?;
        let world = World { coupons, ..World::new(now, self.coupons.zone) };
        let mut world = self.coupons.load(tx, world, &live_ops).await?;
        // Locks may have been waited for: what is decided and recorded is of now.
        world.now = self.coupons.clock.now();

        let busy = (0..items.len()).filter(|position| busy.contains(&upload_of[*position]));
        let held = live.iter().filter(|(_, op)| op.act.is_blocked(&world)).map(|(position, _)| *position);
        let aside = put_aside(busy.chain(held), &items, &upload_of);
        let is_aside = |position: usize| aside.contains(&upload_of[position]);
        // The row of a late item is there already. Alone, an upload that is put aside is rolled back.
        if ops.len() > 1 && (0..items.len()).any(|at| is_aside(at) && !known.placed[at] && known.is_new(at)) {
            return Err(WriteError::Apart);
        }

        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(items.len());
        // What is answered under the till's numbers that were won.
        let mut numbered: Vec<(&Ticket, Answer)> = Vec::new();
        for (position, item) in items.iter().enumerate() {
            if is_aside(position) {
                answers.push(None);
                continue;
            }
            let of = |leader: usize, replayed: bool| Some(Answer { replayed, ..answers[leader].clone()? });
            let answer = match &known.claims[position] {
                Claim::Answered(answer) => Some(answer.clone()),
                Claim::Follows(leader) => of(*leader, true),
                Claim::Clashes(_) => Some(Answer::reused()),
                Claim::Busy => None,
                Claim::Won => {
                    // The same redemption in another spelling of its coupon.
                    if let (true, Claim::Follows(leader)) = (known.placed[position], &known.numbers[position]) {
                        of(*leader, false)
                    } else {
                        let (done, of_number) = self.decide(&mut world, &known, position, item)?;
                        if let (Some(of_number), Some(number)) = (of_number, &item.number) {
                            numbered.push((number, of_number));
                        }
                        Some(done.answer())
                    }
                }
            };
            answers.push(answer);
        }
        let new = items.iter().zip(&answers).enumerate().filter(|(position, _)| known.is_new(*position));
        let new = new.filter_map(|(position, (item, answer))| Some((*item, known.placed[position], answer.as_ref()?)));
        self.write(tx, world, &live_ops, Decided { new: new.collect(), numbered: &numbered }).await?;
        let mut answers = answers.into_iter();
        Ok(ops.iter().map(|op| answers.by_ref().take(op.items.len()).collect()).collect())
    }

    /// Writes what was decided.
    async fn write(
        &self,
        tx: &mut Tx<'_>,
        world: World,
        live: &[&CouponOp],
        Decided { new, numbered }: Decided<'_>,
    ) -> Result<(), WriteError> {
        let placed = new.iter().filter(|(_, placed, _)| *placed).map(|(item, _, answer)| (&item.identity, *answer));
        let decided: Vec<(&Ticket, &Answer)> =
            placed.chain(numbered.iter().map(|(number, answer)| (*number, answer))).collect();
        let late = new.iter().filter(|(_, placed, _)| !placed);
        let late: Vec<(Uuid, &Answer)> = late.map(|(item, _, answer)| (item.identity.number.key, *answer)).collect();
        if !late.is_empty() {
            store::update_late(tx, &late).await?;
        }
        insert_answers(tx, world.now, &decided).await?;
        // What was put off is sent here, so that a month's refusal is told apart.
        let written = async {
            write(tx, world).await?;
            tx.flush().await
        };
        written.await.map_err(|error| self.coupons.doubt(error, live))
    }

    /// Decides a new item. Gives what became of it, and what its till's number is answered with, if that was won.
    fn decide(
        &self,
        world: &mut World,
        known: &Known,
        position: usize,
        item: &Item,
    ) -> Result<(ItemDone, Option<Answer>), WriteError> {
        if !known.placed[position] {
            if let Some(done) = known.recorded.get(&position) {
                return Ok((done.clone(), None));
            }
            let gone = || Refusal::new(Code::RequestNumberExpired).detail("nothing of that day is kept any more");
            let refusal = item.refusal.clone().filter(|_| item.number.is_none()).unwrap_or_else(gone);
            let today = self.coupons.zone.day_of(world.now);
            return Ok((conflict(world, item, today, &refusal)?, None));
        }
        if known.numbers[position] != Claim::Won {
            return Ok(match item.by_earlier(known.earlier.get(&position)) {
                Ok(done) => (done, None),
                Err(refusal) => (conflict(world, item, item.business_day, &refusal)?, None),
            });
        }
        let outcome = match (&item.refusal, item.redeem()?) {
            (Some(refusal), _) => Err(refusal.clone()),
            (None, Some(redeem)) => decide::redeem(world, &redeem, item.amount),
            (None, None) => Err(Code::CouponCodeInvalid.into()),
        };
        Ok(match outcome {
            Ok(redeemed) => {
                let done = item.accepted(redeemed.redemption_id, redeemed.discount);
                (done, Some(Answer::decided(200, Ok(redeemed))))
            }
            Err(refusal) => {
                let done = conflict(world, item, item.business_day, &refusal)?;
                let id = item.filed_under(item.business_day)?.to_string();
                (done, Some(Answer::decided::<()>(200, Err(refusal.with("conflict_id", id)))))
            }
        })
    }
}

/// What an item of that day needs.
fn leaves_of(day: Day) -> [Leaf; 3] {
    let id = day.first_id();
    [
        plan("request").leaf_date(day.to_date()),
        plan("redemption").leaf_i64(id),
        plan("redemption_conflict").leaf_i64(id),
    ]
}

/// Notes that an item does not fit.
fn conflict(world: &mut World, item: &Item, filed: Day, refusal: &Refusal) -> Result<ItemDone, WriteError> {
    let conflict_id = item.filed_under(filed)?;
    let rule = item.code.code_id().and_then(|code_id| world.coupons.get(&code_id)).and_then(|coupon| {
        let version = world.rules.get(&(coupon.rule_id, coupon.rule_version))?;
        Some(version.discount.on(item.amount))
    });
    let details = (!refusal.extra.is_empty())
        .then(|| serde_json::to_string(&refusal.extra).expect("a map with string keys always serialises"));
    metrics::counter!("tessera_offline_conflicts_total", "reason" => refusal.code.name()).increment(1);
    world.changed.new_conflicts.push(Conflict {
        conflict_id,
        recorded_at: world.now,
        redeemed_at: item.redeemed_at,
        amount: item.amount,
        // A till took off no more than was to be paid, whatever it says.
        discount: item.discount.filter(|discount| *discount <= item.amount).or(rule),
        code: item.code.clone(),
        member_id: item.member_id,
        business_day: item.business_day,
        store_no: item.place.store_no,
        register: item.register.clone(),
        sequence: item.sequence,
        order_ref: item.order_ref.clone(),
        reason: refusal.code.name().to_owned(),
        currency: item.currency.clone(),
        details,
        version: 1,
        resolution: None,
    });
    world.changed.events.push(NewEvent {
        event_id: item.event_id,
        kind: Kind::ConflictRecorded,
        subject: conflict_id.get(),
        body: json!({
            "conflict_id": conflict_id,
            "store_id": &*item.place.store_id,
            "reason": refusal.code.name(),
            "amount": item.amount,
        }),
    });
    Ok(item.refused(conflict_id, refusal))
}
