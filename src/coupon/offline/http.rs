//! Uploads of offline redemptions over HTTP.

use std::sync::Arc;

use actix_web::web::Data;
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use futures_util::future::try_join_all;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
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
        rule_body::{Currency, whole},
        till::{Register, Sequence},
    },
    http::{
        self, Answer, ApiError, Caller, Json, Reply, Routes,
        app::Shell,
        input::{invalid, present},
    },
    id::{DAY_END, Day, EventId, MemberId},
    member::names_somebody,
    problem::{Code, Refusal},
    request::{Operation, RequestNumber, Source, Window, store::Ticket},
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
    /// As it was printed, typed or scanned, whatever it is. Of one that fails its check 64 characters are kept with the
    /// conflict, as they are.
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

fn is_keepable(at: DateTime<Utc>) -> bool {
    (1..=9999).contains(&at.year())
}

/// An instant of a year that a database can hold.
fn till_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let at = DateTime::<Utc>::deserialize(deserializer)?;
    if is_keepable(at) { Ok(whole(at)) } else { Err(invalid("must be of the years 1 to 9999")) }
}

/// What a till did while it was cut off, in the order in which it did it.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadBody {
    store_id: StoreId,
    register: Register,
    #[schema(value_type = Vec<OfflineItem>, min_items = 1, max_items = 500)]
    items: Vec<Box<RawValue>>,
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
/// closed may send what it did before. An item that is not of the documented shape is a conflict as well (`item_malformed`,
/// filed under today), with what could be read of it; only a body that is no list of items is refused. Codes that fail
/// their check count against the caller's other requests. Checked in this order: body, store; then of each item: shape,
/// business date, register, store closed by then, the till's time (a day from the business date at most, 5 minutes ahead at most), code, number,
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
    let sent: Vec<SentItem> = body.items.iter().map(|text| SentItem::read(text)).collect();
    let codes = try_join_all(sent.iter().map(|item| till.read_code(item.code()))).await?;
    let items = sent.into_iter().zip(codes).zip(numbers).map(|((item, code), number)| match item {
        SentItem::Whole(item) => till.item(item, code, number),
        SentItem::Malformed(item) => till.malformed(item, code, number),
    });
    let items = items.collect();
    let chunk = app.settings.lane.lane().write_batch_max.clamp(1, CHUNK_MAX);
    let (answers, cost) = app.desk.take_offline(items, chunk).await?;

    let (mut accepted, mut repeated) = (0, 0);
    for answer in &answers {
        let counted: Counted = serde_json::from_str(&answer.body).map_err(ApiError::internal)?;
        accepted += usize::from(counted.outcome == Outcome::Accepted);
        repeated += usize::from(answer.replayed);
        // What a till has to send is taken in, whatever its codes; the caller's other requests pay for them.
        if !answer.replayed && counted.reason.as_deref() == Some(Code::CouponCodeInvalid.name()) {
            shell.limits.bad_code(&caller);
        }
    }
    let conflicts = answers.len() - accepted;
    let texts: Vec<&str> = answers.iter().map(|answer| &*answer.body).collect();
    let json = format!(
        "{{\"accepted\":{accepted},\"conflicts\":{conflicts},\"repeated\":{repeated},\"items\":[{}]}}",
        texts.join(",")
    );
    Ok(Answer::rendered(200, json).metered(cost.into()))
}

/// An item as it was sent.
enum SentItem {
    Whole(OfflineItem),
    Malformed(Malformed),
}

/// An item that is not of the documented shape, with what can be read of it: what a till did is not lost.
struct Malformed {
    text: String,
    refusal: Refusal,
    code: String,
    business_date: Option<Day>,
    sequence: Option<Sequence>,
    redeemed_at: Option<DateTime<Utc>>,
    amount: Option<Amount>,
    order_ref: Option<OrderRef>,
    currency: Option<Currency>,
    member_id: Option<MemberId>,
}

/// Characters that are kept of a field that cannot be read.
const SENT_CHARS_KEPT: usize = 100;

impl SentItem {
    fn read(text: &RawValue) -> Self {
        match http::extract::parse(text.get().as_bytes()) {
            Ok(item) => Self::Whole(item),
            Err(refusal) => Self::Malformed(Malformed::salvage(text.get(), &refusal)),
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Whole(item) => &item.code,
            Self::Malformed(item) => &item.code,
        }
    }
}

impl Malformed {
    fn salvage(text: &str, why: &Refusal) -> Self {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let field = why.extra.get("field").and_then(Value::as_str).unwrap_or_default();
        let mut refusal = Refusal::new(Code::ItemMalformed).with("field", field);
        if let Some(detail) = &why.detail {
            refusal = refusal.with("detail", detail.as_str());
        }
        // A code or a name in the place of another field may be somebody's number.
        if let Some(sent) = value.get(field).map(Value::to_string).filter(|sent| !names_somebody(sent)) {
            refusal = refusal.with("sent", sent.chars().take(SENT_CHARS_KEPT).collect::<String>());
        }
        Self {
            text: text.to_owned(),
            refusal,
            code: match value.get("code") {
                None => String::new(),
                Some(Value::String(code)) => code.clone(),
                Some(other) => other.to_string(),
            },
            business_date: field_of(&value, "business_date").filter(|day: &Day| (0..DAY_END).contains(&day.number())),
            sequence: field_of(&value, "sequence"),
            redeemed_at: field_of(&value, "redeemed_at").filter(|at| is_keepable(*at)).map(whole),
            amount: field_of(&value, "amount"),
            order_ref: field_of(&value, "order_ref"),
            currency: field_of(&value, "currency"),
            member_id: field_of(&value, "member_id"),
        }
    }
}

fn field_of<T: DeserializeOwned>(value: &Value, name: &str) -> Option<T> {
    T::deserialize(value.get(name)?).ok()
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
        let source = self.source(date, item.sequence.get() as u32);
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
            Sent::Ours(code_id) => body.digest(code_id),
            Sent::Foreign(text) => body.digest(text),
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
            place: self.place(sequence),
            register: self.register.to_string(),
            sequence,
        }
    }

    /// An item that nobody can decide: known by its text alone, whenever it is sent, it goes to the conflicts of today, once.
    fn malformed(&self, item: Malformed, read: ReadCode, (serial, event_id): (i64, EventId)) -> Item {
        let scope = format!("store:{}", self.shop.store_id);
        let nowhere = Day::EPOCH.to_date();
        let content = format!("malformed {}", item.text);
        let identity = RequestNumber::of_item(&scope, Operation::Redeem, &self.source(nowhere, 0), &content, nowhere);
        let sequence = item.sequence.map_or(0, |sequence| sequence.get() as i32);
        Item {
            identity: Ticket { number: identity, digest: 0 },
            number: None,
            refusal: Some(item.refusal),
            code: read.code,
            serial,
            event_id,
            business_day: item.business_date.unwrap_or_else(|| Day::from_date(self.window.today())),
            redeemed_at: item.redeemed_at.unwrap_or(self.window.now),
            amount: item.amount.map_or(0, Amount::get),
            discount: None,
            order_ref: item.order_ref.map(OrderRef::into_string).unwrap_or_default(),
            currency: item.currency.map(Currency::into_string),
            member_id: item.member_id,
            place: self.place(sequence),
            register: self.register.to_string(),
            sequence,
        }
    }

    fn source(&self, business_date: NaiveDate, sequence: u32) -> Source {
        Source::Till {
            store_id: self.shop.store_id.to_string(),
            register: self.register.to_string(),
            business_date,
            sequence,
        }
    }

    fn place(&self, sequence: i32) -> Place {
        Place {
            store_no: self.shop.store_no,
            store_id: self.shop.store_id.as_str().into(),
            regions: Arc::clone(&self.shop.regions),
            register: Some(self.register.to_string()),
            sequence: Some(sequence),
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
