//! What a till did while it was cut off, sent afterwards.
//!
//! The goods have left the store, so no item is refused: one that fits becomes a row of the ledger as any redemption,
//! one that does not a row of `redemption_conflict` with its reason and the store that bears it. Both carry the same
//! kind of id, and an item has one of them, once:
//!
//! - An item is known by its till's number *and* its content (code, amount, order), claimed as one key in `request`.
//!   Sent again, it is answered as it was first, whatever became of the coupon meanwhile.
//! - Besides, it claims the till's number as an online redemption does. What was redeemed online under that number with
//!   the same content is the same redemption, and accepted; what was refused online is a conflict with that refusal,
//!   whatever else (lines, say) was said online; anything else under that number is a conflict of its own reason,
//!   `request_number_reused`. Of one coupon in two spellings, ours and an old one, the second is answered as the first,
//!   whatever else either says.
//! - The day of an item whose leaf of `request` is not there any more, or not yet, can claim nothing. Such an item is
//!   looked for in the ledger and among the conflicts of its day, and goes, once, to the conflicts of today: its key
//!   stands in `redemption_late` for as long as conflicts are kept. Should its day have a place later, it is found there.
//!
//! An item that is not of the documented shape claims no till's number: it is known by its text, stands in
//! `redemption_late` as well, and goes to the conflicts of today with what could be read of it.
//!
//! # How an item is decided
//!
//! In the order of the upload, each seeing those before it, by [`decide::redeem`](super::decide::redeem) with the time
//! that the till says for validity; a lock counts if it stands when the item comes. What stands against it is the
//! first of: the business date lies outside the window of request numbers; the register is not one of the store's; the
//! store was closed on an earlier day; the time does not fit the business date (a day more or less) or lies more than
//! [`AHEAD_MAX`] ahead; the code fails its check; the number was used for something else; then as for a redemption
//! online.
//!
//! A rule that is paused: a till that was cut off could not learn of it. The use is a conflict only if the rule has stood
//! as it is since before the use.

pub mod conflict_http;
pub mod http;
pub mod resolve;
pub mod store;
pub mod writer;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    answer::by_id,
    decide::{Place, Redeem},
    desk::{Desk, DeskError},
};
use crate::{
    db::lane::{Cost, WriteError},
    id::{CodeId, Day, EventId, MemberId, RedemptionId, StoreNo},
    problem::{Code, Refusal},
    request::store::{Answer, Ticket},
};

/// Items of one upload.
pub const ITEMS_MAX: usize = 500;
/// How far a till's clock may be ahead of ours.
pub const AHEAD_MAX: TimeDelta = TimeDelta::minutes(5);
/// Characters that are kept of a code that fails its check.
const CODE_CHARS_KEPT: usize = 64;

/// The code of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    Ours(CodeId),
    /// It fails its check: mistyped, made up, or not of this chain.
    Foreign(String),
}

impl Sent {
    pub fn code_id(&self) -> Option<CodeId> {
        match self {
            Sent::Ours(code_id) => Some(*code_id),
            Sent::Foreign(_) => None,
        }
    }

    /// What is kept of one that fails its check: short, and without what hides.
    fn kept(&self) -> Option<String> {
        match self {
            Sent::Ours(_) => None,
            Sent::Foreign(text) => {
                let visible = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
                Some(visible.take(CODE_CHARS_KEPT).collect())
            }
        }
    }
}

/// One redemption of an upload.
#[derive(Debug, Clone)]
pub struct Item {
    /// The till's number and the content as one number, on the item's day.
    pub identity: Ticket,
    /// The till's number, as a redemption online claims it; `None` when its day lies outside the window.
    pub number: Option<Ticket>,
    /// What is known to stand against it before the coupon is looked at.
    pub refusal: Option<Refusal>,
    pub code: Sent,
    /// The number in the id of its row, wherever that will stand.
    pub serial: i64,
    pub event_id: EventId,
    pub business_day: Day,
    pub redeemed_at: DateTime<Utc>,
    pub amount: i64,
    /// What the till took off, when it says so.
    pub discount: Option<i64>,
    pub order_ref: String,
    pub currency: Option<String>,
    pub member_id: Option<MemberId>,
    pub place: Place,
    pub register: String,
    pub sequence: i32,
}

impl Item {
    /// The redemption that it would be; `None` for a code that fails its check.
    fn redeem(&self) -> Result<Option<Redeem>, WriteError> {
        let Some(code_id) = self.code.code_id() else { return Ok(None) };
        Ok(Some(Redeem {
            code_id,
            redemption_id: self.filed_under(self.business_day)?,
            event_id: self.event_id,
            place: self.place.clone(),
            order_ref: self.order_ref.clone(),
            amount: self.amount,
            lines: Vec::new(),
            currency: self.currency.clone(),
            member_id: self.member_id,
            occurred_at: Some(self.redeemed_at),
        }))
    }

    fn is_malformed(&self) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.code == Code::ItemMalformed)
    }

    fn filed_under(&self, day: Day) -> Result<RedemptionId, WriteError> {
        RedemptionId::from_parts(day, self.serial).map_err(|error| WriteError::Inconsistent(error.to_string()))
    }

    fn accepted(&self, redemption_id: RedemptionId, discount: i64) -> ItemDone {
        ItemDone {
            outcome: Outcome::Accepted,
            redemption_id: Some(redemption_id),
            discount: Some(discount),
            payable: Some(self.amount - discount),
            ..self.done()
        }
    }

    fn refused(&self, conflict_id: RedemptionId, refusal: &Refusal) -> ItemDone {
        ItemDone {
            outcome: Outcome::Conflict,
            conflict_id: Some(conflict_id),
            reason: Some(refusal.code.name().to_owned()),
            ..self.done()
        }
    }

    fn done(&self) -> ItemDone {
        ItemDone {
            business_date: self.business_day,
            sequence: self.sequence,
            outcome: Outcome::Conflict,
            code: self.code.code_id(),
            redemption_id: None,
            discount: None,
            payable: None,
            conflict_id: None,
            reason: None,
        }
    }

    /// What was answered under the till's number before, to this item: that of a redemption with the same content is the
    /// item's own.
    fn by_earlier(&self, earlier: Option<&Answer>) -> Result<ItemDone, Refusal> {
        let reused = || Refusal::from(Code::RequestNumberReused);
        let earlier = earlier.ok_or_else(reused)?;
        if earlier.status >= 400 {
            let refusal: Refusal = serde_json::from_str(&earlier.body).unwrap_or_else(|_| reused());
            // It was sent before in another spelling of its coupon, and stands among the conflicts.
            let known = refusal.extra.get("conflict_id").and_then(|id| id.as_str()?.parse().ok());
            return known.map(|conflict_id| self.refused(conflict_id, &refusal)).ok_or(refusal);
        }
        let done: Value = serde_json::from_str(&earlier.body).map_err(|_| reused())?;
        let code = self.code.code_id().map(|code_id| format!("id:{code_id}"));
        // Of a basket, the use of this coupon; what was payable depends on the uses before it.
        let is_this = |of: &Value| of["code"].as_str() == code.as_deref() && of["order_ref"] == self.order_ref.as_str();
        if let Some(used) = done["redemptions"].as_array().and_then(|all| all.iter().find(|used| is_this(used))) {
            let id = used["redemption_id"].as_str().and_then(|id| id.parse().ok());
            let (id, discount) = id.zip(used["discount"].as_i64()).ok_or_else(reused)?;
            return Ok(ItemDone { payable: used["payable"].as_i64(), ..self.accepted(id, discount) });
        }
        let money = |name: &str| done[name].as_i64();
        let id = done["redemption_id"].as_str().and_then(|id| id.parse().ok());
        match (id, money("discount"), money("payable")) {
            (Some(id), Some(discount), Some(payable))
                if done["code"].as_str() == code.as_deref()
                    && discount + payable == self.amount
                    && done["order_ref"].as_str() == Some(&self.order_ref) =>
            {
                Ok(self.accepted(id, discount))
            }
            _ => Err(reused()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OfflineOutcome)]
pub enum Outcome {
    /// It stands in the ledger.
    Accepted,
    /// It stands among the conflicts.
    Conflict,
}

/// What became of one item, now or when it was first sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = OfflineDone)]
pub struct ItemDone {
    pub business_date: Day,
    pub sequence: i32,
    pub outcome: Outcome,
    /// Absent when it fails its check.
    #[serde(serialize_with = "some_by_id", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub code: Option<CodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub redemption_id: Option<RedemptionId>,
    /// Taken off by the rule, smallest unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub discount: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub payable: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub conflict_id: Option<RedemptionId>,
    /// The name of an error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "coupon_already_redeemed")]
    pub reason: Option<String>,
}

impl ItemDone {
    fn answer(&self) -> Answer {
        Answer::decided(200, Ok(self))
    }
}

/// Of the stored text of an [`ItemDone`], what the upload counts.
#[derive(Deserialize)]
struct Counted {
    outcome: Outcome,
    reason: Option<String>,
}

#[expect(clippy::ref_option, reason = "serde hands a reference to the field")]
fn some_by_id<S: serde::Serializer>(code_id: &Option<CodeId>, serializer: S) -> Result<S::Ok, S::Error> {
    match code_id {
        Some(code_id) => by_id(code_id, serializer),
        None => serializer.serialize_none(),
    }
}

/// Who bears a conflict in the end. The numbers stand in rows and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ConflictResolution)]
pub enum How {
    StoreBears,
    ChainBears,
    CustomerPays,
    /// There is nothing to bear.
    Dismissed,
}

impl How {
    const ALL: [How; 4] = [How::StoreBears, How::ChainBears, How::CustomerPays, How::Dismissed];

    pub fn number(self) -> i16 {
        match self {
            How::StoreBears => 1,
            How::ChainBears => 2,
            How::CustomerPays => 3,
            How::Dismissed => 4,
        }
    }

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|how| how.number() == number)
    }
}

/// A row of `redemption_conflict`.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    pub conflict_id: RedemptionId,
    pub recorded_at: DateTime<Utc>,
    pub redeemed_at: DateTime<Utc>,
    pub amount: i64,
    pub discount: Option<i64>,
    pub code: Sent,
    pub member_id: Option<MemberId>,
    pub business_day: Day,
    pub store_no: StoreNo,
    pub register: String,
    pub sequence: i32,
    pub order_ref: String,
    /// The name of a [`Code`].
    pub reason: String,
    pub currency: Option<String>,
    /// JSON: what the reason adds.
    pub details: Option<String>,
    pub version: i32,
    pub resolution: Option<Resolution>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    pub how: How,
    pub at: DateTime<Utc>,
    /// The caller's name.
    pub by: String,
    pub note: String,
}

impl Desk {
    /// Takes in what a till did, in transactions of up to `chunk` items, in order. What was answered before an error
    /// stands, and is answered again when all is sent again.
    ///
    /// # Errors
    /// [`DeskError::Lane`], of the first transaction without an outcome.
    pub async fn take_offline(&self, items: Vec<Item>, chunk: usize) -> Result<(Vec<Answer>, Cost), DeskError> {
        let (mut answers, mut cost) = (Vec::with_capacity(items.len()), Cost::default());
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let items: Vec<Item> = items.by_ref().take(chunk.max(1)).collect();
            let (decided, spent) = self.offline.write(writer::Upload { items }).await?;
            answers.extend(decided.into_iter().map(|answer| self.show(answer)));
            cost += spent;
        }
        Ok((answers, cost))
    }

    /// Numbers for the rows and the events of so many items, wherever each will stand.
    ///
    /// # Errors
    /// [`DeskError::Numbers`].
    pub async fn numbers_of_items(&self, count: usize) -> Result<Vec<(i64, EventId)>, DeskError> {
        let today = Day::from_date(self.clock.now().date_naive());
        let serials = self.redemptions.next(count).await?;
        let events = self.events.next(count).await?;
        let pairs = serials.into_iter().zip(events);
        Ok(pairs
            .map(|(serial, event)| Ok((serial, EventId::from_parts(today, event)?)))
            .collect::<Result<_, crate::id::IdError>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_resolve_have_one_number_each() {
        for how in How::ALL {
            assert_eq!(How::from_number(how.number()), Some(how));
        }
        assert_eq!(How::from_number(0), None);
    }

    #[test]
    fn what_is_kept_of_a_foreign_code_is_short_and_visible() {
        let kept = Sent::Foreign(format!("a\0b{}", "林".repeat(100))).kept().unwrap();
        assert_eq!((kept.chars().count(), kept.starts_with("a\u{fffd}b林")), (64, true));
    }
}
