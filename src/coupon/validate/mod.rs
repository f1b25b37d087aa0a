//! What redeeming a coupon would be answered with, now and at this till.
//!
//! The rows that the decision needs are read without locks, put into a [`World`] and given to [`decide::redeem`], whose
//! changes are thrown away. So it cannot judge otherwise than redeeming does; but it is advice, since what it has read
//! may have changed by the time a till redeems.

pub mod http;
pub mod read;

use std::{
    collections::{BTreeSet, HashMap},
    ops::DerefMut,
    sync::Arc,
};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Coupon, StateName,
    decide::{self, Line, Redeem, Redeemed},
    desk::{Desk, DeskError, RedeemRequest},
    world::{Stock, StockKey, World},
};
use crate::{
    id::{EventId, RedemptionId, StoreNo},
    meter::Meter,
    problem::{Code, Refusal},
};

/// What redeeming would be answered with.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Validated {
    pub code: String,
    /// Whether it could be redeemed now.
    pub applies: bool,
    /// Of the coupon as it is. Absent when the till's store is the reason and the coupon was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub state: Option<StateName>,
    /// What would be taken off, smallest unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub discount: Option<i64>,
    /// What would be left to pay, smallest unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub payable: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub currency: Option<String>,
    /// Of a gift, the product.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gift_sku: Option<String>,
    /// What each line would have of the discount, when lines were sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
    /// What redeeming would be refused with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "coupon_below_threshold")]
    pub why: Option<Code>,
    /// What the amount lacks for the threshold, smallest unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub missing: Option<i64>,
    /// What the refusal would say besides, such as `redeemed_at`, `locked_until`, `valid_until` or `left`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub more: Map<String, Value>,
}

impl Validated {
    fn granted(code: String, state: StateName, redeemed: Redeemed) -> Self {
        Self {
            code,
            applies: true,
            state: Some(state),
            discount: Some(redeemed.discount),
            payable: Some(redeemed.payable),
            currency: Some(redeemed.currency),
            gift_sku: redeemed.gift_sku,
            lines: redeemed.lines,
            why: None,
            missing: None,
            more: Map::new(),
        }
    }

    /// Of a coupon that would be refused; `state` is known if it was looked at.
    pub fn refused(code: String, state: Option<StateName>, refusal: Refusal) -> Self {
        let mut more = refusal.extra;
        let missing = more.remove("missing").and_then(|missing| missing.as_i64());
        Self {
            code,
            applies: false,
            state,
            discount: None,
            payable: None,
            currency: None,
            gift_sku: None,
            lines: Vec::new(),
            why: Some(refusal.code),
            missing,
            more,
        }
    }
}

impl Desk {
    /// What redeeming would be answered with; writes nothing.
    ///
    /// # Errors
    /// `coupon_not_found`, `coupon_retired`; [`DeskError`].
    pub async fn validate(&self, ask: RedeemRequest) -> Result<(Validated, Meter), DeskError> {
        let code_id = ask.code_id;
        let (found, cost) = self.find_coupon(code_id).await?;
        let mut meter = Meter::from(cost);
        let Some(coupon) = found else { return Err(Box::pin(self.why_missing(code_id)).await?.into()) };
        let day = ask.till.business_day;
        let op = Redeem {
            code_id,
            // Never written.
            redemption_id: RedemptionId::from_parts(day, 0)?,
            event_id: EventId::from_parts(day, 0)?,
            place: ask.till.into_place(),
            order_ref: ask.order_ref,
            amount: ask.amount,
            lines: ask.lines,
            currency: ask.currency,
            member_id: ask.member_id,
            occurred_at: None,
        };
        let mut world = self.look(&coupon, &op, &mut meter).await?;
        let code = self.secrets.codes().format(code_id);
        let state = coupon.state_name(world.now);
        let validated = match decide::redeem(&mut world, &op, op.amount) {
            Ok(redeemed) => Validated::granted(code, state, redeemed),
            Err(refusal) => Validated::refused(code, Some(state), refusal),
        };
        Ok((validated, meter))
    }

    /// Reads what the decision will look at, as the writer would lock it.
    async fn look(&self, coupon: &Coupon, op: &Redeem, meter: &mut Meter) -> Result<World, DeskError> {
        let mut world = World::new(self.clock.now(), self.zone);
        if let Some(holder) = coupon.holder {
            let (standing, cost) = self.standing.find(holder).await?;
            *meter += Meter::from(cost);
            world.members.extend(standing.map(|standing| (holder, standing)));
        }
        let (rule_id, version) = (coupon.rule_id, coupon.rule_version);
        let missing = || sqlx::Error::Decode(format!("coupon.rule_version {version} of {rule_id} is missing").into());
        let head = self.rule(rule_id).await?.ok_or_else(missing)?;
        let (versions, asked) = self.rules.versions(&BTreeSet::from([(rule_id, version)]), self.office.get()).await?;
        meter.statements += asked;
        world.rules.extend(versions.into_iter().map(|(key, (version, _))| (key, version)));
        if world.rules.is_empty() {
            return Err(missing().into());
        }
        let parts = decide::parts_of_use(&head.current, op.redemption_id.day(), op.place.store_no);
        world.heads.insert(rule_id, head);
        let keys: Vec<StockKey> = parts.into_iter().map(|part| part.key(rule_id)).collect();
        if !keys.is_empty() {
            let (stocks, cost) = self.stock.find_many(keys.clone()).await?;
            *meter += Meter::from(cost);
            // One that nothing was taken from yet has no row.
            world.stocks.extend(keys.into_iter().map(|key| (key, Stock { issued: 0, voided: 0, spent: 0 })));
            world.stocks.extend(stocks);
        }
        world.stores = self.names(coupon.last_use.as_ref().map(|last| last.store_no), meter).await?;
        world.coupons.insert(coupon.code_id, coupon.clone());
        Ok(world)
    }

    async fn names(&self, of: Option<StoreNo>, meter: &mut Meter) -> Result<HashMap<StoreNo, Arc<str>>, DeskError> {
        let Some(store_no) = of else { return Ok(HashMap::new()) };
        if let Some(name) = self.stores.get(store_no) {
            return Ok(HashMap::from([(store_no, name)]));
        }
        meter.statements += 1;
        let mut conn = self.office.get().await?;
        Ok(self.stores.read(conn.deref_mut(), BTreeSet::from([store_no])).await?.0)
    }
}
