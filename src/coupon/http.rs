//! Coupons over HTTP: issue, get, redeem, reverse, and the ledger.

use std::collections::BTreeSet;

use actix_web::web::Data;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Coupon, StateName,
    decide::{Hold, Issued, Line, Redeemed, Returned, Reversed, millis},
    desk::{DeskError, ISSUE_COUNT_MAX, IssueRequest, RedeemRequest, ReverseRequest},
    first_business_day,
    legacy::Named,
    till::{refused_at_own_store, till_body},
    world::{LedgerKind, Redemption},
};
use crate::{
    app::App,
    chain::key::Role,
    db::lane::Cost,
    http::{
        Answer, ApiError, At, Caller, Json, Number, Reply, Routes, TillNumber,
        app::Shell,
        input::{Int, present},
        number::NumberText,
    },
    id::{CodeId, Day, MemberId, RedemptionId, RuleId},
    problem::{Code, Refusal},
    request::{self, Operation, Window, store::Ticket},
    text_type,
};

text_type! {
    /// What the till calls the sale. It stays when members are erased: nothing of the customer belongs in it.
    OrderRef: word 1..=64, "S0001-20261122-0093";
    /// A line of a sale, as the till numbers them.
    LineName: word 1..=16, "1";
    /// Who referred the member: an employee's number, which stays when members are erased. No name, phone number or e-mail.
    Referrer: word 1..=32, "E1001";
}

/// An amount of money in the smallest unit of its currency.
pub type Amount = Int<0, 1_000_000_000_000>;

pub fn routes() -> Routes {
    crate::routes! {
        issue_coupons: RuleNotFound, StoreClosed, StoreSuspended, RuleNotActive, MemberNotFound, MemberFrozen,
            MemberCancelled, MemberKindForbidden, IssueDayUnavailable, MonthRetired, StockExhausted, MemberLimitReached;
        get_coupon: CouponCodeInvalid, CouponNotFound, CouponRetired, TooManyBadCodes;
        redeem_coupon: CouponCodeInvalid, TooManyBadCodes, StoreNotFound, StoreClosed, StoreSuspended,
            RegisterNotFound, CouponNotFound, CouponRetired, CouponVoid, CouponAlreadyRedeemed, CouponLocked, MemberFrozen,
            MemberCancelled, MemberKindForbidden, CouponHolderMismatch, RuleNotActive, CouponNotForStore,
            CouponNotYetValid, MonthRetired, CouponExpired, CouponCurrencyMismatch, CouponBelowThreshold, BudgetExhausted;
        reverse_coupon: CouponCodeInvalid, TooManyBadCodes, StoreNotFound, StoreClosed, RegisterNotFound,
            CouponNotFound, CouponRetired, CouponVoid, RedemptionNotFound, RedemptionAlreadyReversed, ReverseTooLate,
            ReverseCyclesExceeded, MonthRetired, RedemptionLineUnknown, RedemptionLineReversed, ReverseAmountExceeded,
            CouponNotRedeemed;
        get_redemption: RedemptionNotFound;
    }
}

/// A coupon code as people type it. It is checked by the handler, not here, since a false one costs its sender.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct CodeText(String);

impl utoipa::PartialSchema for CodeText {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .min_length(Some(1))
            .max_length(Some(64))
            .examples(["7K3M-0000-0000-0000"])
            .into()
    }
}

impl ToSchema for CodeText {}

impl CodeText {
    /// The coupon it names, by our code or by that of an older system. A bad check costs no query, unless old codes look
    /// like that; many bad codes, and many strangers that look like old ones, cost the caller.
    pub(super) async fn read(&self, app: &App, shell: &Shell, caller: &Caller) -> Result<CodeId, ApiError> {
        Ok(self.read_metered(app, shell, caller).await?.0)
    }

    /// As [`Self::read`], with what it cost.
    pub(super) async fn read_metered(
        &self,
        app: &App,
        shell: &Shell,
        caller: &Caller,
    ) -> Result<(CodeId, Cost), ApiError> {
        shell.limits.may_send_codes(caller)?;
        let (named, cost) = app.desk.resolve(&self.0).await?;
        let refused = |told: Refusal| match shell.limits.bad_code(caller) {
            refusal if refusal.code == Code::CouponCodeInvalid => told,
            refusal => refusal,
        };
        match named {
            Named::Coupon(code_id) => Ok((code_id, cost)),
            Named::NoSuchLegacy => Err(refused(Code::CouponNotFound.into()).into()),
            Named::Bad(bad) => Err(refused(Refusal::new(Code::CouponCodeInvalid).detail(bad.to_string())).into()),
        }
    }
}

/// Issue coupons to one member, or so many without a holder.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueBody {
    /// The holder; without one the coupons are anonymous.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
    /// 1 if absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    count: Option<Int<1, { ISSUE_COUNT_MAX }>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    referrer: Option<Referrer>,
    /// As if on this day of the past: the codes carry it, and validity and the stock of a day are counted from it. For
    /// admins.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issued_on: Option<Day>,
}

/// Issue coupons of a rule
///
/// All or none. Checked in this order: role, for `issued_on`; request number; of a till's key its store, closed or
/// suspended; the rule exists; `issued_on` is no day to come, and its month has a partition; member; rule is active; the month
/// stands; stock; limit per member.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/coupons", tag = "coupons",
    params(("rule_id" = RuleId, Path), ("Idempotency-Key" = inline(NumberText), Header, description = "The request's number")),
    responses((status = 201, description = "The coupons", body = Issued)))]
async fn issue_coupons(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(rule_id): At<RuleId>,
    Json(body): Json<IssueBody>,
) -> Reply<Issued> {
    if body.issued_on.is_some() {
        caller.must(&[Role::Admin])?;
    }
    let number = number.of(&caller, Operation::Issue, TillNumber::default(), &window(&app, &shell))?;
    let ticket = Ticket { number, digest: request::digest(&(rule_id, &body)) };
    if let Some(refusal) = refused_at_own_store(&app, &shell, &caller, Operation::Issue).await? {
        let (answer, cost) = app.desk.refuse(ticket, refusal).await?;
        return answer.reply(cost);
    }
    let ask = IssueRequest {
        rule_id,
        member_id: body.member_id,
        count: body.count.map_or(1, Int::get) as usize,
        store_no: caller.store.as_ref().map(|(store_no, _)| *store_no),
        claimed: false,
        referrer: body.referrer.map(Referrer::into_string),
        issued_on: body.issued_on.map(Day::to_date),
    };
    let (answer, cost) = app.desk.issue(ticket, ask).await?;
    answer.reply(cost)
}

/// A coupon.
#[derive(Debug, Serialize, ToSchema)]
pub struct CouponView {
    code: String,
    rule_id: RuleId,
    rule_version: i32,
    state: StateName,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
    uses: i16,
    #[serde(serialize_with = "millis")]
    issued_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    valid_from: DateTime<Utc>,
    /// Exclusive.
    #[serde(serialize_with = "millis")]
    valid_until: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    redemption_id: Option<RedemptionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    redeemed_at: Option<String>,
    /// The order that holds it, and until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    lock: Option<Hold>,
    /// How often a use of it was taken back as a whole.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(default = 0)]
    cycles: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    void_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    referrer: Option<String>,
    /// It was imported, and has the code of an older system besides ours.
    is_legacy: bool,
}

fn is_zero(number: &i16) -> bool {
    *number == 0
}

impl CouponView {
    pub(crate) fn new(coupon: Coupon, code: String, now: DateTime<Utc>) -> Self {
        Self {
            code,
            rule_id: coupon.rule_id,
            rule_version: coupon.rule_version,
            state: coupon.state_name(now),
            member_id: coupon.holder,
            uses: coupon.uses,
            issued_at: coupon.issued_at,
            valid_from: coupon.valid_from,
            valid_until: coupon.valid_until,
            redemption_id: coupon.last_use.as_ref().map(|last| last.redemption_id),
            redeemed_at: coupon.last_use.as_ref().map(|last| super::instant(last.at)),
            is_legacy: coupon.legacy_key.is_some(),
            lock: coupon.lock_at(now).filter(|_| now < coupon.valid_until).map(Hold::from),
            cycles: coupon.cycles,
            void_reason: coupon.void_reason,
            referrer: coupon.referrer,
        }
    }
}

/// Get a coupon
///
/// By its code as it is printed or typed; case, spaces and hyphens do not matter. Here and wherever else a code is taken,
/// that of an older system, under which the coupon was imported, will do; answers show ours in `code`, which works from then
/// on, too: the old one is kept as a keyed hash and cannot be shown.
#[utoipa::path(get, path = "/v1/coupons/{code}", tag = "coupons", params(("code" = inline(CodeText), Path)),
    responses((status = 200, description = "The coupon", body = CouponView)))]
async fn get_coupon(app: Data<App>, shell: Data<Shell>, caller: Caller, At(code): At<CodeText>) -> Reply<CouponView> {
    let (code_id, mut cost) = code.read_metered(&app, &shell, &caller).await?;
    let (found, more) = app.desk.find_coupon(code_id).await?;
    cost += more;
    let Some(coupon) = found else {
        return Err(ApiError::from(Box::pin(app.desk.why_missing(code_id)).await?).metered(cost.into()));
    };
    let mut view = CouponView::new(coupon, app.desk.secrets.codes().format(code_id), shell.clock.now());
    if let (Role::Pos, Some(lock)) = (caller.role, &mut view.lock) {
        // Whoever knows the order may release the lock and redeem under it: a till learns that from no answer.
        lock.order_ref = None;
    }
    Ok(Answer::ok(view).metered(cost.into()))
}

/// A line of a sale.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SaleLine {
    line: LineName,
    /// Payable before the discount, smallest unit.
    amount: Amount,
}

/// Lines of one sale.
const LINES_MAX: usize = 200;

/// # Errors
/// `invalid_field` when there are too many, one twice, or they do not add up.
pub(super) fn read_lines(lines: Option<&Vec<SaleLine>>, amount: i64) -> Result<Vec<(String, i64)>, ApiError> {
    let Some(lines) = lines else { return Ok(Vec::new()) };
    if lines.is_empty() || lines.len() > LINES_MAX {
        return Err(ApiError::invalid_field("lines", format!("must be 1 to {LINES_MAX}")));
    }
    let names: BTreeSet<&LineName> = lines.iter().map(|line| &line.line).collect();
    if names.len() < lines.len() {
        return Err(ApiError::invalid_field("lines", "must have different names"));
    }
    if lines.iter().map(|line| i128::from(line.amount.get())).sum::<i128>() != i128::from(amount) {
        return Err(ApiError::invalid_field("lines", "must add up to amount"));
    }
    Ok(lines.iter().map(|line| (line.line.to_string(), line.amount.get())).collect())
}

till_body! {
    /// A till spends a coupon in a sale.
    RedeemBody {}
    /// The store's business day; today in the chain's zone if absent.
    business_date
    {
        order_ref: OrderRef,
        /// Payable before the discount, smallest unit.
        amount: Amount,
        /// What the amount is made of, so that lines may be returned; their amounts add up to it.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false, min_items = 1, max_items = 200)]
        lines: Option<Vec<SaleLine>>,
        /// Checked against the rule's, when given.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        currency: Option<super::rule_body::Currency>,
        /// Checked against the holder, when both are given.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        member_id: Option<MemberId>,
    }
}

impl RedeemBody {
    /// Told by code, amount and order of this till's number: what else it says makes another request of the same core.
    pub(super) fn digest<C: Serialize>(&self, code: &C) -> i64 {
        let core = Self { lines: None, currency: None, member_id: None, ..self.clone() };
        request::digest_with_core(&(code, &core), &(code, self))
    }

    /// What a till would have sent for a redemption that it sends afterwards: so both have one digest.
    pub(super) fn afterwards(
        store_id: crate::chain::StoreId,
        register: super::till::Register,
        sequence: super::till::Sequence,
        business_date: chrono::NaiveDate,
        sale: (OrderRef, Amount, Option<super::rule_body::Currency>, Option<MemberId>),
    ) -> Self {
        let (order_ref, amount, currency, member_id) = sale;
        Self {
            store_id,
            register: Some(register),
            business_date: Some(business_date),
            sequence: Some(sequence),
            order_ref,
            amount,
            lines: None,
            currency,
            member_id,
        }
    }
}

/// Redeem a coupon
///
/// Of many tills that send one coupon at once, one wins; the others get `coupon_already_redeemed` with when and where.
/// Refusals are looked for in this order: code, store, request number, business date, store closed or suspended, register,
/// not found, void, already redeemed, locked, member frozen or cancelled, another holder, rule not active, not for this
/// store, not yet valid (by business date: the day before the issue is the earliest; then by the clock), expired, other
/// currency, below threshold, budget.
#[utoipa::path(post, path = "/v1/coupons/{code}/redeem", tag = "coupons",
    params(("code" = inline(CodeText), Path), ("Idempotency-Key" = inline(Option<NumberText>), Header, description = "The request's number, if the body has no sequence")),
    responses((status = 200, description = "The use", body = Redeemed)))]
async fn redeem_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(code): At<CodeText>,
    Json(body): Json<RedeemBody>,
) -> Reply<Redeemed> {
    let code_id = code.read(&app, &shell, &caller).await?;
    let (till, number, refusal) = body.till().read(&app, &shell, &caller, &number, Operation::Redeem).await?;
    let ticket = Ticket { number, digest: body.digest(&code_id) };
    if let Some(refusal) = refusal {
        let (answer, cost) = app.desk.refuse(ticket, refusal).await?;
        return answer.reply(cost);
    }
    let ask = RedeemRequest {
        code_id,
        till,
        order_ref: body.order_ref.into_string(),
        amount: body.amount.get(),
        lines: read_lines(body.lines.as_ref(), body.amount.get())?,
        currency: body.currency.map(|currency| currency.into_string()),
        member_id: body.member_id,
    };
    let (answer, cost) = app.desk.redeem(ticket, ask).await?;
    answer.reply(cost)
}

till_body! {
    /// A till takes a use back.
    ReverseBody {
        /// The use to undo, as redeeming named it.
        redemption_id: RedemptionId,
    }
    /// The business day of the undo; today in the chain's zone if absent.
    business_date
    {
        /// The sale of the return; the one of the use if absent.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        order_ref: Option<OrderRef>,
        /// Lines that come back, as redeeming named them; everything if neither these nor an amount are given.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false, min_items = 1, max_items = 200)]
        lines: Option<Vec<LineName>>,
        /// Of a sale without lines, the amount of the goods that come back, smallest unit.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        amount: Option<Int<1, 1_000_000_000_000>>,
    }
}

/// Reverse a redemption
///
/// Whole, by lines, or by an amount of returned goods; at any store: goods are returned where the customer is, be it at one
/// that is suspended or was closed in the last 30 days. Of a part, its share of the discount is taken back; with the last
/// part the use is back on the coupon, and `expired` says when it cannot be spent any more. Refusals are looked for in this
/// order: code, store, request number, business date (the day before the redemption's is the earliest), store closed,
/// register, not found, void, no such redemption, reversed already, too late, too many cycles, no such line, line returned
/// already, more than is left.
#[utoipa::path(post, path = "/v1/coupons/{code}/reverse", tag = "coupons",
    params(("code" = inline(CodeText), Path), ("Idempotency-Key" = inline(Option<NumberText>), Header, description = "The request's number, if the body has no sequence")),
    responses((status = 200, description = "The undo", body = Reversed)))]
async fn reverse_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(code): At<CodeText>,
    Json(body): Json<ReverseBody>,
) -> Reply<Reversed> {
    let code_id = code.read(&app, &shell, &caller).await?;
    let (till, number, refusal) = body.till().read(&app, &shell, &caller, &number, Operation::Reverse).await?;
    if till.business_day < first_business_day(body.redemption_id.day()) {
        return Err(ApiError::invalid_field("business_date", "is before that of the redemption"));
    }
    let returned = match (&body.lines, body.amount) {
        (None, None) => Returned::Whole,
        (Some(lines), None) if (1..=LINES_MAX).contains(&lines.len()) => {
            Returned::Lines(lines.iter().map(LineName::to_string).collect())
        }
        (Some(_), None) => return Err(ApiError::invalid_field("lines", format!("must be 1 to {LINES_MAX}"))),
        (None, Some(amount)) => Returned::Amount(amount.get()),
        (Some(_), Some(_)) => return Err(ApiError::invalid_field("amount", "cannot be given beside lines")),
    };
    let ticket = Ticket { number, digest: request::digest(&(code_id, &body)) };
    if let Some(refusal) = refusal {
        let (answer, cost) = app.desk.refuse(ticket, refusal).await?;
        return answer.reply(cost);
    }
    let ask = ReverseRequest {
        code_id,
        redemption_id: body.redemption_id,
        till,
        order_ref: body.order_ref.map(OrderRef::into_string),
        returned,
    };
    let (answer, cost) = app.desk.reverse(ticket, ask).await?;
    answer.reply(cost)
}

/// The window in which request numbers are accepted, now.
pub fn window(app: &App, shell: &Shell) -> Window {
    Window {
        now: shell.clock.now(),
        zone: shell.zone,
        days_back: app.settings.chain.request_days_back.into(),
        days_ahead: app.settings.chain.request_days_ahead.into(),
    }
}

/// A row of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedemptionView {
    redemption_id: RedemptionId,
    kind: LedgerKindName,
    code: String,
    rule_id: RuleId,
    rule_version: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
    business_date: Day,
    #[serde(serialize_with = "millis")]
    recorded_at: DateTime<Utc>,
    /// When it was, as the till says, of a use that was sent afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    occurred_at: Option<String>,
    store_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    register: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sequence: Option<i32>,
    order_ref: String,
    /// Payable before the discount, smallest unit.
    amount: i64,
    /// Given, or taken back, smallest unit.
    discount: i64,
    /// Of the discount, taken back so far.
    reversed: i64,
    /// Of the amount, come back so far.
    returned: i64,
    /// Everything has come back, and the use is on the coupon again.
    reversed_whole: bool,
    /// Of a use the lines of the sale, if they were sent; of an undo those that came back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reverses: Option<RedemptionId>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum LedgerKindName {
    Redeem,
    Reverse,
}

/// Get a redemption
///
/// A use or an undo. A till sees those of its own store.
#[utoipa::path(get, path = "/v1/redemptions/{redemption_id}", tag = "coupons",
    params(("redemption_id" = RedemptionId, Path)),
    responses((status = 200, description = "The row of the ledger", body = RedemptionView)))]
async fn get_redemption(app: Data<App>, caller: Caller, At(redemption_id): At<RedemptionId>) -> Reply<RedemptionView> {
    let (found, cost) = app.desk.find_redemption(redemption_id).await?;
    let row: Redemption = found.ok_or(Code::RedemptionNotFound).map_err(Refusal::new)?;
    // Another store's row is not there for a till: its number would tell of the other's sales.
    if caller.store.as_ref().is_some_and(|(own, _)| *own != row.store_no) {
        return Err(Refusal::new(Code::RedemptionNotFound).into());
    }
    let view = RedemptionView {
        redemption_id: row.redemption_id,
        kind: match row.kind {
            LedgerKind::Redeem => LedgerKindName::Redeem,
            LedgerKind::Reverse => LedgerKindName::Reverse,
        },
        code: app.desk.secrets.codes().format(row.code_id),
        rule_id: row.rule_id,
        rule_version: row.rule_version,
        member_id: row.member_id,
        business_date: row.redemption_id.day(),
        recorded_at: row.recorded_at,
        occurred_at: row.occurred_at.map(super::instant),
        store_id: app.stores.name(row.store_no).await?.to_string(),
        register: row.register,
        sequence: row.sequence,
        order_ref: row.order_ref,
        amount: row.amount,
        discount: row.discount,
        reversed: row.reversed,
        returned: row.returned,
        reversed_whole: row.reversed_whole,
        lines: row.lines,
        reverses: row.reverses,
    };
    Ok(Answer::ok(view).metered(cost.into()))
}

impl From<DeskError> for ApiError {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Refused(refusal) => refusal.into(),
            DeskError::Lane(error) => error.into(),
            DeskError::Office(error) => error.into(),
            // Numbers come from the database: without it there are none.
            DeskError::Numbers(_) => Self::failed(Code::Unavailable, error),
            DeskError::Id(_) => Self::internal(error),
        }
    }
}
