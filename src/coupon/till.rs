//! Which till speaks, and when by its store's calendar: the part that the bodies of tills share.

use std::sync::Arc;

use chrono::NaiveDate;

use super::desk::Till;
use crate::{
    app::App,
    chain::{
        StoreId,
        deed::{Deed, Shop},
    },
    http::{ApiError, Caller, Number, TillNumber, app::Shell, input::Int},
    id::Day,
    problem::Refusal,
    request::{Operation, RequestNumber, Window},
};

pub use crate::chain::register::Register;

/// The number of a till's request; it counts requests, not sales.
pub type Sequence = Int<0, 2_147_483_647>;

/// Declares a body that a till sends: fields of its own before and after those that say who speaks. Not a struct that is
/// flattened into others, since serde lets unknown fields pass there.
macro_rules! till_body {
    (
        $(#[$doc:meta])* $name:ident { $($before:tt)* }
        $(#[$date_doc:meta])* business_date
        { $($after:tt)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($before)*
            store_id: $crate::chain::StoreId,
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schema(nullable = false)]
            register: Option<$crate::coupon::till::Register>,
            $(#[$date_doc])*
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schema(nullable = false)]
            business_date: Option<::chrono::NaiveDate>,
            /// With `register` and `business_date` the request's number; without it, `Idempotency-Key` is.
            #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
            #[schema(nullable = false)]
            sequence: Option<$crate::coupon::till::Sequence>,
            $($after)*
        }

        impl $name {
            fn till(&self) -> $crate::coupon::till::TillFields<'_> {
                $crate::coupon::till::TillFields {
                    store_id: &self.store_id,
                    register: self.register.as_ref(),
                    business_date: self.business_date,
                    sequence: self.sequence,
                }
            }
        }
    };
}
pub(super) use till_body;

/// The part of a body that says which till speaks.
pub struct TillFields<'a> {
    pub store_id: &'a StoreId,
    pub register: Option<&'a Register>,
    pub business_date: Option<NaiveDate>,
    pub sequence: Option<Sequence>,
}

impl TillFields<'_> {
    /// The till, the request's number, and why the store may not do it. That one is told only when nothing was answered
    /// under the number before, so it goes where numbers are claimed.
    ///
    /// # Errors
    /// `store_forbidden`, `store_not_found`, those of request numbers, `invalid_field` for a business date outside the
    /// window of request numbers.
    pub async fn read(
        &self,
        app: &App,
        shell: &Shell,
        caller: &Caller,
        number: &Number,
        operation: Operation,
    ) -> Result<(Till, RequestNumber, Option<Refusal>), ApiError> {
        caller.must_be_at(self.store_id)?;
        let store = app.stores.get(self.store_id).await?;
        let window = super::http::window(app, shell);
        let natural = TillNumber {
            store_id: Some(self.store_id.as_str()),
            register: self.register.map(Register::as_str),
            business_date: self.business_date,
            sequence: self.sequence.map(|sequence| sequence.get() as u32),
        };
        let number = number.of(caller, operation, natural, &window)?;
        let till = self.till(&store, &window)?;
        let refusal = till.refused_at(&store, operation, &window);
        Ok((till, number, refusal))
    }

    /// The till at its store.
    ///
    /// # Errors
    /// `invalid_field` for a business date outside the window of request numbers.
    pub fn till(&self, store: &Shop, window: &Window) -> Result<Till, ApiError> {
        let business_date = self.business_date.unwrap_or_else(|| window.today());
        if !window.contains(business_date) {
            return Err(ApiError::invalid_field("business_date", "is too far from today"));
        }
        Ok(Till {
            store_no: store.store_no,
            store_id: self.store_id.as_str().into(),
            register: self.register.map(|register| register.as_str().to_owned()),
            sequence: self.sequence.map(|sequence| sequence.get() as i32),
            business_day: Day::from_date(business_date),
            regions: Arc::clone(&store.regions),
        })
    }
}

impl Till {
    /// Why its store may not do this, or does not know the register.
    pub fn refused_at(&self, store: &Shop, operation: Operation, window: &Window) -> Option<Refusal> {
        let may = store.may(deed_of(operation), window.today());
        may.and_then(|()| store.takes(self.register.as_deref())).err()
    }
}

/// What stands against this at the store that the caller's key is bound to; a key that is bound to none is not asked.
///
/// # Errors
/// Those of reading the store.
pub async fn refused_at_own_store(
    app: &App,
    shell: &Shell,
    caller: &Caller,
    operation: Operation,
) -> Result<Option<Refusal>, ApiError> {
    let Some((_, store_id)) = &caller.store else { return Ok(None) };
    let today = shell.zone.day_of(shell.clock.now()).to_date();
    Ok(app.stores.get(store_id).await?.may(deed_of(operation), today).err())
}

/// What a store does when its till asks for this.
fn deed_of(operation: Operation) -> Deed {
    match operation {
        // No till sends a file; it would register members.
        Operation::Register | Operation::Import => Deed::RegisterMember,
        Operation::Issue | Operation::Claim | Operation::Bind => Deed::Issue,
        Operation::Lock => Deed::Lock,
        Operation::Release => Deed::Release,
        Operation::Redeem => Deed::Redeem,
        Operation::Reverse => Deed::Reverse,
        // Goods that come back, as far as a store is concerned.
        Operation::Void => Deed::Reverse,
    }
}
