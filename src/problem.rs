//! What can go wrong, by name: the one table of error codes of the API, and a refusal that a domain decides.
//!
//! A code never changes its meaning, its status or its title; a snapshot test freezes the table. This module knows
//! nothing of HTTP libraries: `http::problem` alone renders RFC 9457.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $title:literal),+ $(,)?) => {
        /// A stable error code. The name is what clients compare.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $title] #[serde(rename = $name)] $variant,)+
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &[Code] = &[$(Code::$variant),+];

            /// The name clients compare, and the last part of the problem's type.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name),+ }
            }

            /// The HTTP status that goes with the code.
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status),+ }
            }

            /// One line for people.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title),+ }
            }
        }
    };
}

codes! {
    // The request itself.
    MalformedBody "malformed_body" 400 "The body is not well-formed JSON of the documented shape",
    InvalidField "invalid_field" 422 "A field has a value that is not allowed",
    MalformedPath "malformed_path" 404 "A part of the path is not a well-formed id",
    MalformedQuery "malformed_query" 400 "The query string is not of the documented shape",
    MalformedHeader "malformed_header" 400 "A header is missing or not of the documented shape",
    UnsupportedMediaType "unsupported_media_type" 415 "The body is not of the media type that this endpoint takes",
    BodyTooLarge "body_too_large" 413 "The body is larger than this endpoint takes",
    RouteNotFound "route_not_found" 404 "There is no such endpoint",
    MethodNotAllowed "method_not_allowed" 405 "The endpoint does not answer this method",
    RequestTimeout "request_timeout" 408 "The request did not arrive in time",
    MalformedCsv "malformed_csv" 400 "The CSV, or a row of it, is not of the documented shape",
    // The caller.
    Unauthenticated "unauthenticated" 401 "A valid API key is required",
    RoleForbidden "role_forbidden" 403 "The API key's role may not do this",
    StoreForbidden "store_forbidden" 403 "The API key belongs to another store",
    TooManyRequests "too_many_requests" 429 "This caller sends more requests than its limit",
    TooManyBadCodes "too_many_bad_codes" 429 "This caller sent too many coupon codes that fail their check",
    // Request numbers.
    RequestNumberRequired "request_number_required" 400 "This write needs a request number",
    RequestNumberExpired "request_number_expired" 422 "The request number's day is outside the accepted window",
    RequestNumberReused "request_number_reused" 409 "The request number was used for a request with another meaning",
    RequestNotFound "request_not_found" 404 "Nothing has been decided under this request number yet",
    // Preconditions.
    PreconditionRequired "precondition_required" 428 "This change needs an If-Match header",
    PreconditionFailed "precondition_failed" 412 "The thing was changed by somebody else meanwhile",
    // Stores.
    StoreNotFound "store_not_found" 404 "There is no such store",
    StoreExists "store_exists" 409 "A store with this id exists",
    StoreClosed "store_closed" 422 "The store is closed",
    StoreSuspended "store_suspended" 422 "The store is suspended",
    RegisterNotFound "register_not_found" 404 "The store has no such register in use, and takes calls of registered ones only",
    // Regions.
    RegionNotFound "region_not_found" 404 "There is no such region",
    RegionExists "region_exists" 409 "A region with this id exists",
    RegionRetired "region_retired" 422 "The region is retired and takes no more stores",
    RegionCycle "region_cycle" 409 "The region would be below itself",
    RegionTooDeep "region_too_deep" 422 "The regions would be nested too deeply",
    // External systems.
    SystemNotFound "system_not_found" 404 "There is no such external system",
    SystemExists "system_exists" 409 "An external system of this name exists",
    // Members.
    MemberNotFound "member_not_found" 404 "There is no such member",
    MemberKeyTaken "member_key_taken" 409 "An identifier belongs to another member",
    MemberFrozen "member_frozen" 422 "The member is frozen",
    MemberCancelled "member_cancelled" 422 "The member is cancelled",
    MemberMuted "member_muted" 422 "The member may not change what others see",
    IdentifierInvalid "identifier_invalid" 422 "An identifier is not of its kind",
    // What belongs to members.
    AddressNotFound "address_not_found" 404 "The member has no such address",
    AddressLimitReached "address_limit_reached" 409 "The member has as many addresses as allowed",
    DeviceNotFound "device_not_found" 404 "The member has no such device",
    LocationNotFound "location_not_found" 404 "It is not known where the member is",
    LineNotFound "line_not_found" 404 "There is no such business line",
    ProfileNotFound "profile_not_found" 404 "The member has no profile in this business line",
    RoleLimitReached "role_limit_reached" 409 "The member has as many roles as allowed",
    TagLimitReached "tag_limit_reached" 409 "The member has as many tags as allowed",
    MemberKindForbidden "member_kind_forbidden" 422 "The member's kind does not allow this",
    MemberStateForbidden "member_state_forbidden" 409 "The member cannot go from its state to that one",
    MemberErased "member_erased" 422 "The member was erased and does not come back",
    MemberKeyNotFound "member_key_not_found" 404 "The member has no such identifier",
    MemberKeyLast "member_key_last" 422 "The last identifier of a member is not released",
    MemberKeysFull "member_keys_full" 409 "The member has as many identifiers as it may",
    // Rules.
    RuleNotFound "rule_not_found" 404 "There is no such coupon rule",
    RuleNotActive "rule_not_active" 422 "The coupon rule is not active",
    RuleStateForbidden "rule_state_forbidden" 409 "The coupon rule cannot go from its state to that one",
    StockExhausted "stock_exhausted" 409 "The rule has no coupons left",
    MemberLimitReached "member_limit_reached" 409 "The member has taken as many coupons of this rule as allowed",
    BudgetExhausted "budget_exhausted" 409 "The rule has no money left",
    RuleNotClaimable "rule_not_claimable" 422 "Members may not take coupons of this rule themselves",
    // Coupons.
    CouponCodeInvalid "coupon_code_invalid" 422 "The coupon code fails its check: mistyped or made up",
    CouponNotFound "coupon_not_found" 404 "There is no such coupon",
    CouponNotYetValid "coupon_not_yet_valid" 422 "The coupon is not valid yet",
    CouponExpired "coupon_expired" 422 "The coupon has expired",
    CouponVoid "coupon_void" 409 "The coupon was made void",
    CouponLocked "coupon_locked" 409 "The coupon is locked by another order",
    CouponAlreadyRedeemed "coupon_already_redeemed" 409 "The coupon was redeemed already",
    CouponNotRedeemed "coupon_not_redeemed" 409 "The coupon has no use that could be reversed",
    CouponBelowThreshold "coupon_below_threshold" 422 "The amount is below the coupon's threshold",
    CouponCurrencyMismatch "coupon_currency_mismatch" 422 "The coupon is in another currency",
    CouponHolderMismatch "coupon_holder_mismatch" 422 "The coupon is held by another member",
    CouponNotForStore "coupon_not_for_store" 422 "The coupon may not be used at this store",
    CouponRetired "coupon_retired" 410 "The coupon ended long ago, and its month is put away",
    MonthRetired "month_retired" 409 "The month is put away or was never made; it takes no coupons",
    CouponHeld "coupon_held" 409 "The coupon has another holder",
    RedemptionNotFound "redemption_not_found" 404 "There is no such redemption",
    RedemptionAlreadyReversed "redemption_already_reversed" 409 "The redemption was reversed already",
    RedemptionLineUnknown "redemption_line_unknown" 422 "The redemption has no such line",
    RedemptionLineReversed "redemption_line_reversed" 409 "The line was returned already",
    ReverseAmountExceeded "reverse_amount_exceeded" 422 "More is returned than the redemption has left",
    ReverseTooLate "reverse_too_late" 422 "The time for taking this use back is over",
    ReverseCyclesExceeded "reverse_cycles_exceeded" 409 "The coupon was reversed as often as its rule allows",
    // Offline redemptions.
    RedeemedAtImplausible "redeemed_at_implausible" 422 "The till's time does not fit its business date, or lies ahead of now",
    ConflictNotFound "conflict_not_found" 404 "There is no such conflict",
    // Jobs.
    JobNotFound "job_not_found" 404 "There is no such job",
    JobStateForbidden "job_state_forbidden" 409 "The job cannot go from its state to that one",
    JobLimitReached "job_limit_reached" 409 "The caller has as many jobs that have not ended as it may",
    FileInvalid "file_invalid" 422 "The file cannot be taken in as it is",
    IssueDayUnavailable "issue_day_unavailable" 422 "There is no room for coupons of that day",
    LegacyShapeExists "legacy_shape_exists" 409 "A shape of old codes with this name exists",
    // Ours.
    Unavailable "unavailable" 503 "The service cannot answer at the moment; try again",
    Overloaded "overloaded" 503 "The service has more work waiting than it can do; try again",
    ItemMalformed "item_malformed" 422 "An item of an upload is not of the documented shape",
    OutcomeUnknown "outcome_unknown" 503 "The outcome could not be learnt; ask for it by its request number or send it again",
    Internal "internal" 500 "Something went wrong on our side",
}

/// A decided 'no': what a caller is told, and what is stored under its request number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: Code,
    /// One sentence about this occurrence. Ids and masks only, no personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Members added to the problem document, such as `redeemed_at`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

impl Refusal {
    pub fn new(code: Code) -> Self {
        Self { code, detail: None, extra: Map::new() }
    }

    /// 422 `invalid_field`: a well-formed value that is not allowed, with the reason.
    pub fn invalid_field(field: &str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::new(Code::InvalidField).detail(format!("{field}: {reason}")).with("field", field).with("reason", reason)
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code.title())?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        // What a command line cannot do without: which field, and why.
        for name in ["field", "reason"] {
            if let Some(value) = self.extra.get(name).and_then(Value::as_str) {
                write!(f, "; {name}: {value}")?;
            }
        }
        Ok(())
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}
