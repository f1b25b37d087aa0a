//! The operations of coupons for whoever calls: a handler, a job, a bench, a test. Plain values in, answers out.

use std::{
    collections::{BTreeSet, HashMap},
    ops::DerefMut,
    sync::Arc,
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{
    Coupon, answer,
    decide::{Basket, Bind, Issue, Lock, Place, Redeem, Release, Returned, Reverse, Void},
    legacy::{FindLegacy, ShapeBook},
    offline::{resolve::ResolveWriter, writer::OfflineWriter},
    read::{FindCoupon, FindRedemption},
    rule::{Rule, RuleState, RuleVersion},
    rule_cache::RuleBook,
    rule_store,
    validate::read::{FindStanding, FindStock},
    wallet::ListHeld,
    warm::Warmth,
    world::Redemption,
    writer::{Act, CouponOp, CouponWriter, Doubts},
};
use crate::{
    cache::Found,
    chain::names::StoreNames,
    clock::{Clock, Zone},
    db::{
        lane::{Cost, Lane, LaneError, Reader, WriterHandle},
        pool::{self, Office},
        tx,
    },
    event::{self, Kind},
    id::{BlockError, CodeId, Counter, Day, EventId, IdError, MemberId, RedemptionId, RuleId, StoreNo},
    partition::{self, Closed, plan},
    problem::{Code, Refusal},
    request::store::{Answer, Ticket},
    secret::Secrets,
};

/// Most coupons of one request; more is a job.
pub const ISSUE_COUNT_MAX: i64 = 1000;

/// Why an operation has no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("the lane gave no answer")]
    Lane(#[from] LaneError),
    #[error("the office gave no answer")]
    Office(#[from] pool::Error),
    #[error("no number could be had")]
    Numbers(#[from] BlockError),
    #[error("an id could not be made")]
    Id(#[from] IdError),
}

impl From<Refusal> for DeskError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Code> for DeskError {
    fn from(code: Code) -> Self {
        Self::Refused(code.into())
    }
}

impl From<sqlx::Error> for DeskError {
    fn from(error: sqlx::Error) -> Self {
        Self::Office(error.into())
    }
}

/// Where and how a till acts.
#[derive(Debug, Clone)]
pub struct Till {
    pub store_no: StoreNo,
    pub store_id: Arc<str>,
    pub register: Option<String>,
    pub sequence: Option<i32>,
    /// Names the ledger's leaf.
    pub business_day: Day,
    /// The regions that the store is in, directly or through others.
    pub regions: Arc<[Arc<str>]>,
}

impl Till {
    pub(super) fn into_place(self) -> Place {
        let Self { store_no, store_id, register, sequence, regions, .. } = self;
        Place { store_no, store_id, regions, register, sequence }
    }
}

/// What a redemption is asked with.
#[derive(Debug, Clone)]
pub struct RedeemRequest {
    pub code_id: CodeId,
    pub till: Till,
    pub order_ref: String,
    pub amount: i64,
    /// What the amount is made of; may be empty.
    pub lines: Vec<(String, i64)>,
    pub currency: Option<String>,
    pub member_id: Option<MemberId>,
}

/// What a basket of coupons is asked with: each with its part of the amount.
#[derive(Debug, Clone)]
pub struct BasketRequest {
    pub till: Till,
    pub order_ref: String,
    pub amount: i64,
    pub coupons: Vec<(CodeId, i64)>,
    pub currency: Option<String>,
    pub member_id: Option<MemberId>,
}

/// What a lock is asked with.
#[derive(Debug, Clone)]
pub struct LockRequest {
    pub code_id: CodeId,
    pub till: Till,
    pub order_ref: String,
    pub ttl: TimeDelta,
    pub member_id: Option<MemberId>,
}

/// What an undo is asked with.
#[derive(Debug, Clone)]
pub struct ReverseRequest {
    pub code_id: CodeId,
    pub redemption_id: RedemptionId,
    pub till: Till,
    pub order_ref: Option<String>,
    pub returned: Returned,
}

/// What issuing is asked with.
#[derive(Debug, Clone)]
pub struct IssueRequest {
    pub rule_id: RuleId,
    pub member_id: Option<MemberId>,
    pub count: usize,
    /// Whose stock they are taken from, when stores have their own.
    pub store_no: Option<StoreNo>,
    pub referrer: Option<String>,
    /// The member takes it without being given it.
    pub claimed: bool,
    /// A day of the past that the coupons are of; that of now if absent.
    pub issued_on: Option<NaiveDate>,
}

/// Everything that coupons are done with. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    pub clock: Clock,
    pub zone: Zone,
    pub secrets: Arc<Secrets>,
    pub office: Office,
    pub rules: RuleBook,
    pub serials: Counter,
    pub redemptions: Counter,
    pub events: Counter,
    writer: WriterHandle<CouponWriter>,
    pub(super) offline: WriterHandle<OfflineWriter>,
    pub(super) resolver: WriterHandle<ResolveWriter>,
    coupon: Reader<FindCoupon>,
    redemption: Reader<FindRedemption>,
    pub(super) history: Reader<FindLegacy>,
    /// What codes of older systems look like.
    pub shapes: ShapeBook,
    pub(super) held: Reader<ListHeld>,
    pub(super) standing: Reader<FindStanding>,
    pub(super) stock: Reader<FindStock>,
    pub(super) stores: StoreNames,
}

/// The counters of `id_block` that the desk draws from.
pub struct Counters {
    pub serials: Counter,
    pub redemptions: Counter,
    pub events: Counter,
}

/// What a desk is made of.
pub struct DeskParts {
    pub clock: Clock,
    pub zone: Zone,
    pub secrets: Arc<Secrets>,
    pub office: Office,
    pub rules: RuleBook,
    pub stores: StoreNames,
    pub counters: Counters,
}

impl Desk {
    pub fn new(lane: &Lane, parts: DeskParts) -> Self {
        let DeskParts { clock, zone, secrets, office, rules, stores, counters } = parts;
        let shapes = ShapeBook::new(office.clone());
        let writer = || CouponWriter {
            clock: clock.clone(),
            zone,
            rules: rules.clone(),
            stores: stores.clone(),
            doubts: Doubts::default(),
            warmth: Warmth::new(lane),
        };
        let (online, offline) = (writer(), OfflineWriter { coupons: writer() });
        let resolver = ResolveWriter { clock: clock.clone() };
        Self {
            clock,
            zone,
            secrets,
            office,
            rules,
            serials: counters.serials,
            redemptions: counters.redemptions,
            events: counters.events,
            writer: lane.writer(online),
            offline: lane.writer(offline),
            resolver: lane.writer(resolver),
            coupon: lane.reader(FindCoupon),
            redemption: lane.reader(FindRedemption),
            history: lane.reader(FindLegacy),
            shapes,
            held: lane.reader(ListHeld),
            standing: lane.reader(FindStanding),
            stock: lane.reader(FindStock),
            stores,
        }
    }

    /// Spends one use of a coupon.
    ///
    /// # Errors
    /// [`DeskError`]; a decided refusal is an answer.
    pub async fn redeem(&self, ticket: Ticket, ask: RedeemRequest) -> Result<(Answer, Cost), DeskError> {
        let act = Act::Redeem(Redeem {
            code_id: ask.code_id,
            redemption_id: self.redemption_id(ask.till.business_day).await?,
            event_id: self.event_id().await?,
            place: ask.till.into_place(),
            order_ref: ask.order_ref,
            amount: ask.amount,
            lines: ask.lines,
            currency: ask.currency,
            member_id: ask.member_id,
            occurred_at: None,
        });
        self.act(ticket, act).await
    }

    /// Spends a use of each of several coupons, all or none.
    ///
    /// # Errors
    /// [`DeskError`]; a decided refusal is an answer.
    pub async fn redeem_basket(&self, ticket: Ticket, ask: BasketRequest) -> Result<(Answer, Cost), DeskError> {
        let day = ask.till.business_day;
        let place = ask.till.into_place();
        let mut uses = Vec::with_capacity(ask.coupons.len());
        for (code_id, amount) in ask.coupons {
            uses.push(Redeem {
                code_id,
                redemption_id: self.redemption_id(day).await?,
                event_id: self.event_id().await?,
                place: place.clone(),
                order_ref: ask.order_ref.clone(),
                amount,
                lines: Vec::new(),
                currency: ask.currency.clone(),
                member_id: ask.member_id,
                occurred_at: None,
            });
        }
        self.act(ticket, Act::Basket(Basket { amount: ask.amount, uses })).await
    }

    /// Takes a use back.
    ///
    /// # Errors
    /// [`DeskError`]; a decided refusal is an answer.
    pub async fn reverse(&self, ticket: Ticket, ask: ReverseRequest) -> Result<(Answer, Cost), DeskError> {
        let act = Act::Reverse(Reverse {
            code_id: ask.code_id,
            redemption_id: ask.redemption_id,
            reversal_id: self.redemption_id(ask.till.business_day).await?,
            event_id: self.event_id().await?,
            place: ask.till.into_place(),
            order_ref: ask.order_ref,
            returned: ask.returned,
        });
        self.act(ticket, act).await
    }

    /// Answers a request with a refusal that was found before it came here, such as that its store is closed; or with what
    /// was answered under its number before.
    ///
    /// # Errors
    /// [`DeskError::Lane`].
    pub async fn refuse(&self, ticket: Ticket, refusal: Refusal) -> Result<(Answer, Cost), DeskError> {
        self.act(ticket, Act::Refuse(refusal)).await
    }

    /// Holds a coupon for an order.
    ///
    /// # Errors
    /// [`DeskError`]; a decided refusal is an answer.
    pub async fn lock(&self, ticket: Ticket, ask: LockRequest) -> Result<(Answer, Cost), DeskError> {
        let act = Act::Lock(Lock {
            code_id: ask.code_id,
            event_id: self.event_id().await?,
            place: ask.till.into_place(),
            order_ref: ask.order_ref,
            ttl: ask.ttl,
            member_id: ask.member_id,
        });
        self.act(ticket, act).await
    }

    /// Lets a coupon go; without an order, whoever holds it.
    ///
    /// # Errors
    /// [`DeskError`]; a decided refusal is an answer.
    pub async fn release(
        &self,
        ticket: Ticket,
        code_id: CodeId,
        order_ref: Option<String>,
    ) -> Result<(Answer, Cost), DeskError> {
        let event_id = self.event_id().await?;
        self.act(ticket, Act::Release(Release { code_id, event_id, order_ref })).await
    }

    /// Makes a coupon void.
    ///
    /// # Errors
    /// [`DeskError`]; a decided refusal is an answer.
    pub async fn void(&self, ticket: Ticket, code_id: CodeId, reason: String) -> Result<(Answer, Cost), DeskError> {
        let event_id = self.event_id().await?;
        self.act(ticket, Act::Void(Void { code_id, event_id, reason })).await
    }

    /// Gives a coupon without a holder to a member.
    ///
    /// # Errors
    /// [`DeskError`]; a decided refusal is an answer.
    pub async fn bind(
        &self,
        ticket: Ticket,
        code_id: CodeId,
        member_id: MemberId,
    ) -> Result<(Answer, Cost), DeskError> {
        let event_id = self.event_id().await?;
        self.act(ticket, Act::Bind(Bind { code_id, event_id, member_id })).await
    }

    /// Issues coupons of a rule, all or none. The codes carry the business day of now, or the day of the past that is
    /// asked for, from whose beginning they are valid.
    ///
    /// # Errors
    /// [`DeskError`]: `rule_not_found`, `invalid_field` and `issue_day_unavailable` before anything is claimed; else a
    /// refusal is an answer.
    pub async fn issue(&self, ticket: Ticket, ask: IssueRequest) -> Result<(Answer, Cost), DeskError> {
        let rule = self.rule(ask.rule_id).await?.ok_or(Code::RuleNotFound)?;
        let today = self.zone.day_of(self.clock.now());
        let day = ask.issued_on.map_or(today, Day::from_date);
        if ask.issued_on.is_some() {
            self.check_issue_day(day).await?;
        }
        let serials = self.serials.next(ask.count).await?;
        let code_ids = serials
            .into_iter()
            .map(|serial| Ok(self.secrets.codes().mint(day, serial)?.code_id))
            .collect::<Result<Vec<_>, IdError>>()?;
        let act = Act::Issue(Issue {
            rule: Arc::clone(&rule.current),
            code_ids,
            day,
            event_id: self.event_id().await?,
            member_id: ask.member_id,
            store_no: ask.store_no,
            referrer: ask.referrer,
            claimed: ask.claimed,
            issued_at: (day < today).then(|| self.zone.start_of(day)),
        });
        self.act(ticket, act).await
    }

    /// Whether coupons can be issued as of a day.
    ///
    /// # Errors
    /// `invalid_field` for a day to come or one that no code can carry, `issue_day_unavailable` for one without a leaf,
    /// `month_retired`.
    pub async fn check_issue_day(&self, day: Day) -> Result<(), DeskError> {
        if day > self.zone.day_of(self.clock.now()) {
            return Err(Refusal::invalid_field("issued_on", "is a day to come").into());
        }
        if day < Day::EPOCH {
            return Err(Refusal::invalid_field("issued_on", format!("is before {}", Day::EPOCH)).into());
        }
        let leaf = plan("coupon").leaf_i64(day.first_id());
        let mut conn = self.office.get().await?;
        let closed = partition::closed(&mut conn, &BTreeSet::from([leaf])).await?;
        if closed.get(&leaf) == Some(&Closed::Retired) {
            return Err(Refusal::new(Code::MonthRetired).with("issued_on", day.to_string()).into());
        }
        if closed.contains_key(&leaf) {
            return Err(Refusal::new(Code::IssueDayUnavailable)
                .detail("its month has no partition: upkeep makes those of the past")
                .with("issued_on", day.to_string())
                .into());
        }
        Ok(())
    }

    /// Coupons as their rows say. Those that do not exist are left out.
    ///
    /// # Errors
    /// [`DeskError::Lane`].
    pub async fn find_coupons(&self, code_ids: Vec<CodeId>) -> Result<HashMap<CodeId, Coupon>, DeskError> {
        Ok(self.coupon.find_many(code_ids).await?.0)
    }

    async fn act(&self, ticket: Ticket, act: Act) -> Result<(Answer, Cost), DeskError> {
        let (answer, cost) = self.writer.write(CouponOp { ticket, act }).await?;
        Ok((self.show(answer), cost))
    }

    /// A stored answer as it is sent: with codes in place of their ids.
    pub fn show(&self, stored: Answer) -> Answer {
        match answer::shown(&self.secrets.codes(), &stored.body) {
            Some(body) => Answer { body: body.into(), ..stored },
            None => stored,
        }
    }

    /// A coupon as its row says.
    ///
    /// # Errors
    /// [`DeskError::Lane`].
    pub async fn find_coupon(&self, code_id: CodeId) -> Result<(Option<Coupon>, Cost), DeskError> {
        Ok(self.coupon.find(code_id).await?)
    }

    /// Why a coupon was not found: there is none, or its month is put away.
    ///
    /// # Errors
    /// [`DeskError::Office`].
    pub async fn why_missing(&self, code_id: CodeId) -> Result<Refusal, DeskError> {
        let month = plan("coupon").leaf_i64(code_id.get());
        let mut conn = self.office.get().await?;
        let closed = partition::closed(conn.deref_mut(), &BTreeSet::from([month])).await?;
        let retired = closed.get(&month) == Some(&Closed::Retired);
        Ok(if retired { Code::CouponRetired } else { Code::CouponNotFound }.into())
    }

    /// A row of the ledger.
    ///
    /// # Errors
    /// [`DeskError::Lane`].
    pub async fn find_redemption(&self, id: RedemptionId) -> Result<(Option<Redemption>, Cost), DeskError> {
        Ok(self.redemption.find(id).await?)
    }

    /// A rule, from memory within the stated bound.
    ///
    /// # Errors
    /// [`DeskError::Office`].
    pub async fn rule(&self, rule_id: RuleId) -> Result<Option<Arc<Rule>>, DeskError> {
        Ok(self.find_rule(rule_id).await?.map(|(rule, _)| rule))
    }

    /// The same, with whether it came from memory.
    ///
    /// # Errors
    /// [`DeskError::Office`].
    pub async fn find_rule(&self, rule_id: RuleId) -> Result<Found<Rule>, DeskError> {
        Ok(self.rules.get(rule_id, self.office.get()).await?)
    }

    /// Makes a rule with its first version.
    ///
    /// # Errors
    /// [`DeskError::Office`].
    pub async fn create_rule(&self, state: RuleState, version: RuleVersion) -> Result<Rule, DeskError> {
        let now = self.clock.now();
        tx::run(&self.office, "create_rule", async |conn| {
            rule_store::insert_rule(conn, now, state, &version).await.map_err(pool::Error::from)
        })
        .await?;
        Ok(Rule { state, revision: 1, created_at: now, updated_at: now, current: Arc::new(version) })
    }

    /// Moves a rule to another state; every node follows within the stated bound.
    ///
    /// # Errors
    /// `rule_not_found`, `precondition_failed`, `rule_state_forbidden`.
    pub async fn set_rule_state(
        &self,
        rule_id: RuleId,
        revisions: Option<&[i64]>,
        state: RuleState,
    ) -> Result<Rule, DeskError> {
        let now = self.clock.now();
        let event_id = self.event_id().await?;
        tx::run(&self.office, "set_rule_state", async |conn| {
            let rule = rule_store::get_rule_for_update(conn, rule_id).await?.ok_or(Code::RuleNotFound)?;
            if revisions.is_some_and(|seen| !seen.contains(&rule.revision.into())) {
                return Err(DeskError::from(Code::PreconditionFailed));
            }
            if rule.state == rule.state.to(state)? && rule.state == state {
                return Ok(());
            }
            rule_store::update_state(conn, now, rule_id, state).await?;
            event::store::insert_office(conn, now, event_id, Kind::RuleChanged, rule_id.get(), state.name()).await?;
            Ok(())
        })
        .await?;
        self.rules.forget(rule_id).await;
        let mut conn = self.office.get().await?;
        Ok(rule_store::find_rule(conn.deref_mut(), rule_id).await?.ok_or(Code::RuleNotFound)?)
    }

    /// Gives a rule its next version, as `next` makes it of the current one; none if it is the same. Every node follows
    /// within the stated bound.
    ///
    /// # Errors
    /// `rule_not_found`, `precondition_failed`, `rule_state_forbidden` for a rule that has ended, and those of `next`.
    pub async fn change_rule(
        &self,
        rule_id: RuleId,
        revisions: Option<&[i64]>,
        next: impl Fn(&RuleVersion) -> Result<RuleVersion, Refusal> + Sync,
    ) -> Result<Rule, DeskError> {
        let now = self.clock.now();
        let event_id = self.event_id().await?;
        let next = &next;
        let rule = tx::run(&self.office, "change_rule", async |conn| {
            let rule = rule_store::get_rule_for_update(conn, rule_id).await?.ok_or(Code::RuleNotFound)?;
            if revisions.is_some_and(|seen| !seen.contains(&rule.revision.into())) {
                return Err(DeskError::from(Code::PreconditionFailed));
            }
            if rule.state == RuleState::Ended {
                return Err(Refusal::new(Code::RuleStateForbidden).with("from", rule.state.name()).into());
            }
            let after = next(&rule.current)?;
            if after == *rule.current {
                return Ok(rule);
            }
            rule_store::update_version(conn, now, &after).await?;
            event::store::insert_office(conn, now, event_id, Kind::RuleChanged, rule_id.get(), "version").await?;
            Ok(Rule { revision: rule.revision + 1, updated_at: now, current: Arc::new(after), ..rule })
        })
        .await?;
        self.rules.forget(rule_id).await;
        Ok(rule)
    }

    async fn redemption_id(&self, day: Day) -> Result<RedemptionId, DeskError> {
        Ok(RedemptionId::from_parts(day, self.redemptions.next_one().await?)?)
    }

    pub(super) async fn event_id(&self) -> Result<EventId, DeskError> {
        let today: DateTime<Utc> = self.clock.now();
        Ok(EventId::from_parts(Day::from_date(today.date_naive()), self.events.next_one().await?)?)
    }
}
