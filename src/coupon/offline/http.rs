//! Uploads of offline redemptions over HTTP.

use std::sync::Arc;

use actix_web::web::Data;
use chrono::{DateTime, Datelike, Utc};
use futures_util::future::try_join_all;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{
    AHEAD_MAX, Counted, ITEMS_MAX, Item, ItemDone, Outcome, Sent,
    conflict_http::{
        __path_get_conflict, __path_list_conflicts, __path_resolve_conflict, get_conflict, list_conflicts,
        resolve_conflict,
    },
};
use crate::{
    app::App,
    chain::{
        StoreId, StoreState,
        deed::{Deed, Shop},
    },
    coupon::{
        decide::Place,
        desk::DeskError,
        http::{Amount, OrderRef, RedeemBody, window},
        legacy::Named,
        rule_body::Currency,
        till::{Register, Sequence},
    },
    http::{
        Answer, ApiError, Caller, Json, Reply, Routes,
        app::Shell,
        input::{invalid, present},
    },
    id::{DAY_END, Day, EventId, MemberId},
    problem::{Code, Refusal},
    request::{self, Operation, RequestNumber, Source, Window, store::Ticket},
};

/// Items of one transaction: few enough to hold their coupons for a moment only.
const CHUNK_MAX: usize = 100;

pub fn routes() -> Routes {
    crate::routes! {
        upload_offline(body 1048576): StoreNotFound, OutcomeUnknown;
        list_conflicts: StoreNotFound, StoreForbidden;
        get_conflict: ConflictNotFound;
        resolve_conflict: ConflictNotFound;
    }
}

/// A redemption that a till did while it was cut off.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OfflineItem {
    /// The till's number of this redemption, with its register and `sequence`; the day that it counts on.
    business_date: Day,
    sequence: Sequence,
    /// When it was, by the till's clock.
    #[serde(deserialize_with = "till_time")]
    redeemed_at: DateTime<Utc>,
    /// As it was printed, typed or scanned, whatever it is.
    code: String,
    /// Payable before the discount, smallest unit.
    amount: Amount,
    /// What the till took off, smallest unit. An item that fits is worth what its rule says.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    discount: Option<Amount>,
    order_ref: OrderRef,
    /// Checked against the holder, when given.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
    /// Checked against the rule's, when given.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    currency: Option<Currency>,
}

/// An instant of a year that a database can hold.
fn till_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let at = DateTime::<Utc>::deserialize(deserializer)?;
    if (1..=9999).contains(&at.year()) { Ok(at) } else { Err(invalid("must be of the years 1 to 9999")) }
}

/// What a till did while it was cut off, in the order in which it did it.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadBody {
    store_id: StoreId,
    register: Register,
    #[schema(min_items = 1, max_items = 500)]
    items: Vec<OfflineItem>,
}

const _: () = assert!(ITEMS_MAX == 500, "the schema above says so");

/// What became of an upload.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OfflineUploaded)]
pub struct Uploaded {
    accepted: usize,
    conflicts: usize,
    /// Items that had been answered before, and were so again.
    repeated: usize,
    /// In the order of the upload.
    items: Vec<ItemDone>,
}

/// Send offline redemptions
///
/// The goods have left the store, so no item is refused: each is `accepted` into the ledger, at the time that the till
/// says, or recorded as a `conflict` with its reason, borne by the store until it is resolved. Each has the till's number
/// of its own, as an online redemption has, and is compared by code, amount and order: an upload may be repeated, whole or
/// in part, or broken off at any point, and nothing happens twice. The same number with other content is a conflict
/// (`request_number_reused`), and so is what lies outside the window of request numbers (`request_number_expired`). What
/// was redeemed online under the number is accepted as that redemption. Items are decided in their order; a store that is
/// closed may send what it did before. Checked in this order: body, store; then of each item: business date, register,
/// store closed by then, the till's time (a day from the business date at most, 5 minutes ahead at most), code, number,
/// and as redeeming online, at the till's time; a rule's pause counts if the rule has not changed since the redemption.
#[utoipa::path(post, path = "/v1/pos/offline-redemptions", tag = "tills",
    responses((status = 200, description = "What became of each", body = Uploaded)))]
async fn upload_offline(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    Json(body): Json<UploadBody>,
) -> Reply<Uploaded> {
    if body.items.is_empty() || body.items.len() > ITEMS_MAX {
        return Err(ApiError::invalid_field("items", format!("must be 1 to {ITEMS_MAX}")));
    }
    caller.must_be_at(&body.store_id)?;
    let shop = app.stores.get(&body.store_id).await?;
    let window = window(&app, &shell);
    // No state of a store stands against it, today or ever: see the table.
    shop.may(Deed::Upload, window.today())?;
    let numbers = app.desk.numbers_of_items(body.items.len()).await?;
    let till = Till { app: &app, shop: &shop, window: &window, register: &body.register };
    let codes = try_join_all(body.items.iter().map(|item| till.read_code(&item.code))).await?;
    let items = body.items.into_iter().zip(codes).zip(numbers);
    let items = items.map(|((item, code), number)| till.item(item, code, number)).collect();
    let chunk = app.settings.lane.lane().write_batch_max.clamp(1, CHUNK_MAX);
    let (answers, cost) = app.desk.take_offline(items, chunk).await?;

    let (mut accepted, mut repeated) = (0, 0);
    for answer in &answers {
        let counted: Counted = serde_json::from_str(&answer.body).map_err(ApiError::internal)?;
        accepted += usize::from(counted.outcome == Outcome::Accepted);
        repeated += usize::from(answer.replayed);
    }
    let conflicts = answers.len() - accepted;
    let texts: Vec<&str> = answers.iter().map(|answer| &*answer.body).collect();
    let json = format!(
        "{{\"accepted\":{accepted},\"conflicts\":{conflicts},\"repeated\":{repeated},\"items\":[{}]}}",
        texts.join(",")
    );
    Ok(Answer::rendered(200, json).metered(cost.into()))
}

/// A text without what people type in one way or another.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !matches!(letter, ' ' | '-')).flat_map(char::to_uppercase).collect()
}

/// The code of an item as it was read.
struct ReadCode {
    code: Sent,
    /// What the item is told from others by. Of a code of an older system it is the text, so that the item stays the same
    /// if such codes come in between two sendings.
    named: String,
    refused: Option<Code>,
}

/// Who sends.
struct Till<'a> {
    app: &'a App,
    shop: &'a Shop,
    window: &'a Window,
    register: &'a Register,
}

impl Till<'_> {
    fn item(&self, item: OfflineItem, read: ReadCode, (serial, event_id): (i64, EventId)) -> Item {
        let (store_id, date) = (&self.shop.store_id, item.business_date.to_date());
        // The store's, whoever sends for it: an item is the same from its till and from an operator.
        let scope = format!("store:{store_id}");
        let source = Source::Till {
            store_id: store_id.to_string(),
            register: self.register.to_string(),
            business_date: date,
            sequence: item.sequence.get() as u32,
        };
        let ReadCode { code, named, refused } = read;
        let content = format!("{} {} {named}", item.amount.get(), item.order_ref);
        let identity = RequestNumber::of_item(&scope, Operation::Redeem, &source, &content, date);
        let number = match item.business_date.number() {
            0..DAY_END => RequestNumber::new(&scope, Operation::Redeem, &source, self.window),
            _ => Err(Code::RequestNumberExpired.into()),
        };
        let refusal = match &number {
            Err(expired) => Some(expired.clone()),
            Ok(_) => self.stands_against(&item).or_else(|| refused.map(Refusal::from)),
        };
        let sequence = item.sequence.get() as i32;
        let sale = (item.order_ref.clone(), item.amount, item.currency.clone(), item.member_id);
        let body = RedeemBody::afterwards(store_id.clone(), self.register.clone(), item.sequence, date, sale);
        let digest = match &code {
            Sent::Ours(code_id) => request::digest(&(code_id, &body)),
            Sent::Foreign(text) => request::digest(&(text, &body)),
        };
        let place = Place {
            store_no: self.shop.store_no,
            store_id: store_id.as_str().into(),
            regions: Arc::clone(&self.shop.regions),
            register: Some(self.register.to_string()),
            sequence: Some(sequence),
        };
        Item {
            identity: Ticket { number: identity, digest: 0 },
            number: number.ok().map(|number| Ticket { number, digest }),
            refusal,
            code,
            serial,
            event_id,
            business_day: item.business_date,
            redeemed_at: item.redeemed_at,
            amount: item.amount.get(),
            discount: item.discount.map(Amount::get),
            order_ref: item.order_ref.into_string(),
            currency: item.currency.map(Currency::into_string),
            member_id: item.member_id,
            place,
            register: self.register.to_string(),
            sequence,
        }
    }

    /// A code of ours, one of an older system, or whatever it is. Costs its sender nothing: what it sends has happened.
    async fn read_code(&self, text: &str) -> Result<ReadCode, DeskError> {
        let desk = &self.app.desk;
        let named = desk
            .secrets
            .codes()
            .parse(text)
            .map_or_else(|_| format!("text:{}", plain(text)), |code_id| format!("id:{code_id}"));
        let (code, refused) = match desk.resolve(text).await?.0 {
            Named::Coupon(code_id) => (Sent::Ours(code_id), None),
            Named::NoSuchLegacy => (Sent::Foreign(text.to_owned()), Some(Code::CouponNotFound)),
            Named::Bad(_) => (Sent::Foreign(text.to_owned()), Some(Code::CouponCodeInvalid)),
        };
        Ok(ReadCode { code, named, refused })
    }

    /// What stands against an item whatever its coupon is.
    fn stands_against(&self, item: &OfflineItem) -> Option<Refusal> {
        if let Err(refusal) = self.shop.takes(Some(self.register.as_str())) {
            return Some(refusal);
        }
        let closed = self.shop.state == StoreState::Closed;
        if closed && self.shop.closed_on.is_none_or(|closed_on| item.business_date > closed_on) {
            return Some(Code::StoreClosed.into());
        }
        let zone = self.shop.time_zone.map_or(self.window.zone, |zone| zone.zone());
        let off = zone.day_of(item.redeemed_at).since(item.business_date);
        if !(-1..=1).contains(&off) || item.redeemed_at > self.window.now + AHEAD_MAX {
            return Some(Code::RedeemedAtImplausible.into());
        }
        None
    }
}
