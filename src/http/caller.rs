//! Who calls, and what they may do.
//!
//! [`ACCESS`] is the one table of operations, roles and what a till's store must be open for. The gate reads it before a handler runs, so a handler cannot
//! forget it; the OpenAPI document shows it; a snapshot freezes it. An operation that is not in it does not start.

use std::fmt;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use super::app::Shell;
use super::problem::ApiError;
use crate::chain::StoreId;
use crate::chain::deed::Deed;
use crate::chain::key::{ApiKey, Role, Token, find_key};
use crate::problem::{Code, Refusal};
use crate::request::Source;

use AtStore::{Any, Change, LookUp, Own};
use Role::{Admin, Marketing, Ops, Pos};

/// What a caller that is bound to a store needs of it: the store's state is asked by [`crate::chain::deed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtStore {
    /// It looks members and coupons up.
    LookUp,
    /// It changes members.
    Change,
    /// The operation asks by itself: a numbered write, whose first answer is given again whatever became of the store.
    Own,
    /// Whatever the store's state is: it tells of the chain, or of what the store itself did.
    Any,
}

impl AtStore {
    /// What the gate asks the store for.
    pub const fn deed(self) -> Option<Deed> {
        match self {
            Self::LookUp => Some(Deed::LookUp),
            Self::Change => Some(Deed::ChangeMember),
            Self::Own | Self::Any => None,
        }
    }

    /// What the gate may refuse with.
    pub const fn codes(self) -> &'static [Code] {
        match self {
            Self::LookUp => &[Code::StoreClosed],
            Self::Change => &[Code::StoreClosed, Code::StoreSuspended],
            Self::Own | Self::Any => &[],
        }
    }
}

/// Operation → roles, and what it needs of a till's store. The name is the handler's, and the `operationId` of the OpenAPI
/// document. A store that is closed neither looks up nor changes anything ([`crate::chain::deed`]), so what `pos` may call
/// says which of the two it is.
pub const ACCESS: &[(&str, &[Role], AtStore)] = &[
    // Regions.
    ("list_regions", &[Marketing, Ops, Admin], Any),
    ("create_region", &[Ops, Admin], Any),
    ("get_region", &[Marketing, Ops, Admin], Any),
    ("update_region", &[Ops, Admin], Any),
    ("import_regions", &[Ops, Admin], Any),
    // Stores.
    ("list_stores", &[Marketing, Ops, Admin], Any),
    ("create_store", &[Ops, Admin], Any),
    ("get_store", &[Pos, Marketing, Ops, Admin], Any),
    ("update_store", &[Ops, Admin], Any),
    ("import_stores", &[Ops, Admin], Any),
    ("list_registers", &[Pos, Marketing, Ops, Admin], Any),
    ("put_register", &[Ops, Admin], Any),
    // External systems.
    ("list_external_systems", &[Marketing, Ops, Admin], Any),
    ("create_external_system", &[Ops, Admin], Any),
    ("get_external_system", &[Marketing, Ops, Admin], Any),
    ("update_external_system", &[Ops, Admin], Any),
    // Members.
    ("register_member", &[Pos, Marketing, Ops, Admin], Own),
    ("lookup_member", &[Pos, Marketing, Ops, Admin], LookUp),
    ("get_member", &[Pos, Marketing, Ops, Admin], LookUp),
    ("update_member", &[Pos, Ops, Admin], Change),
    ("get_members", &[Pos, Marketing, Ops, Admin], LookUp),
    ("reveal_member", &[Ops, Admin], Any),
    ("get_wallet", &[Pos, Ops, Admin], LookUp),
    // Logs.
    ("list_member_changes", &[Ops, Admin], Any),
    ("list_changes", &[Ops, Admin], Any),
    ("list_registrations", &[Ops, Admin], Any),
    ("list_audits", &[Admin], Any),
    // What belongs to members.
    ("list_addresses", &[Pos, Ops, Admin], LookUp),
    ("create_address", &[Pos, Ops, Admin], Change),
    ("get_address", &[Pos, Ops, Admin], LookUp),
    ("update_address", &[Pos, Ops, Admin], Change),
    ("delete_address", &[Pos, Ops, Admin], Change),
    ("make_default_address", &[Pos, Ops, Admin], Change),
    ("list_devices", &[Pos, Ops, Admin], LookUp),
    ("put_device", &[Pos, Ops, Admin], Change),
    ("delete_device", &[Pos, Ops, Admin], Change),
    ("get_location", &[Pos, Ops, Admin], LookUp),
    ("put_location", &[Pos, Ops, Admin], Change),
    ("delete_location", &[Pos, Ops, Admin], Change),
    ("list_profiles", &[Pos, Marketing, Ops, Admin], LookUp),
    ("get_profile", &[Pos, Marketing, Ops, Admin], LookUp),
    ("put_profile", &[Pos, Ops, Admin], Change),
    ("update_profile", &[Pos, Ops, Admin], Change),
    ("delete_profile", &[Ops, Admin], Any),
    ("list_roles", &[Pos, Marketing, Ops, Admin], LookUp),
    ("grant_role", &[Ops, Admin], Any),
    ("revoke_role", &[Ops, Admin], Any),
    ("list_tags", &[Pos, Marketing, Ops, Admin], LookUp),
    ("change_tags", &[Pos, Marketing, Ops, Admin], Change),
    ("put_tag", &[Pos, Marketing, Ops, Admin], Change),
    ("delete_tag", &[Pos, Marketing, Ops, Admin], Change),
    ("erase_member", &[Ops, Admin], Any),
    ("export_member", &[Ops, Admin], Any),
    ("list_keys", &[Pos, Ops, Admin], LookUp),
    ("add_key", &[Pos, Ops, Admin], Change),
    ("change_key", &[Pos, Ops, Admin], Change),
    ("verify_key", &[Pos, Ops, Admin], Change),
    ("transfer_key", &[Ops, Admin], Any),
    ("release_key", &[Ops, Admin], Any),
    // Imports of members.
    ("create_member_import", &[Ops, Admin], Any),
    ("list_member_imports", &[Ops, Admin], Any),
    ("get_member_import", &[Ops, Admin], Any),
    ("list_member_import_failures", &[Ops, Admin], Any),
    ("start_member_import", &[Ops, Admin], Any),
    ("pause_member_import", &[Ops, Admin], Any),
    ("resume_member_import", &[Ops, Admin], Any),
    ("cancel_member_import", &[Ops, Admin], Any),
    // Rules.
    ("create_rule", &[Marketing, Admin], Any),
    ("list_rules", &[Marketing, Ops, Admin], Any),
    ("get_rule", &[Pos, Marketing, Ops, Admin], Any),
    ("list_rule_versions", &[Marketing, Ops, Admin], Any),
    ("update_rule", &[Marketing, Admin], Any),
    ("pause_rule", &[Marketing, Ops, Admin], Any),
    ("resume_rule", &[Marketing, Ops, Admin], Any),
    ("end_rule", &[Marketing, Admin], Any),
    // Coupons.
    ("issue_coupons", &[Pos, Marketing, Admin], Own),
    ("list_rule_coupons", &[Marketing, Ops, Admin], Any),
    ("list_member_coupons", &[Pos, Marketing, Ops, Admin], LookUp),
    ("get_coupon", &[Pos, Marketing, Ops, Admin], LookUp),
    ("validate_coupon", &[Pos, Ops, Admin], LookUp),
    ("lock_coupon", &[Pos, Admin], Own),
    ("release_coupon", &[Pos, Ops, Admin], Own),
    ("redeem_coupon", &[Pos, Admin], Own),
    ("reverse_coupon", &[Pos, Ops, Admin], Own),
    ("void_coupon", &[Marketing, Ops, Admin], Any),
    ("bind_coupon", &[Pos, Marketing, Ops, Admin], Own),
    ("claim_coupon", &[Pos, Marketing, Admin], Own),
    ("redeem_basket", &[Pos, Admin], Own),
    ("get_redemption", &[Pos, Marketing, Ops, Admin], Any),
    // Jobs of coupons.
    ("create_issue_job", &[Marketing, Admin], Any),
    ("list_issue_jobs", &[Marketing, Ops, Admin], Any),
    ("get_issue_job", &[Marketing, Ops, Admin], Any),
    ("list_issue_job_failures", &[Marketing, Ops, Admin], Any),
    ("list_issue_job_codes", &[Marketing, Admin], Any),
    ("start_issue_job", &[Marketing, Admin], Any),
    ("pause_issue_job", &[Marketing, Ops, Admin], Any),
    ("resume_issue_job", &[Marketing, Ops, Admin], Any),
    ("cancel_issue_job", &[Marketing, Ops, Admin], Any),
    ("undo_issue_job", &[Marketing, Admin], Any),
    ("create_coupon_import", &[Ops, Admin], Any),
    ("list_coupon_imports", &[Ops, Admin], Any),
    ("get_coupon_import", &[Ops, Admin], Any),
    ("list_coupon_import_failures", &[Ops, Admin], Any),
    ("start_coupon_import", &[Ops, Admin], Any),
    ("pause_coupon_import", &[Ops, Admin], Any),
    ("resume_coupon_import", &[Ops, Admin], Any),
    ("cancel_coupon_import", &[Ops, Admin], Any),
    ("list_legacy_code_shapes", &[Marketing, Ops, Admin], Any),
    ("create_legacy_code_shape", &[Ops, Admin], Any),
    // What tills did offline, and their totals.
    ("upload_offline", &[Pos, Ops, Admin], Own),
    ("list_conflicts", &[Pos, Ops, Admin], Any),
    ("get_conflict", &[Pos, Ops, Admin], Any),
    ("resolve_conflict", &[Ops, Admin], Any),
    ("get_totals", &[Pos, Ops, Admin], Any),
    // Request numbers.
    ("get_request", &[Pos, Marketing, Ops, Admin], Any),
];

/// The roles of an operation, and what it needs of a till's store.
pub fn access_of(operation: &str) -> Option<(&'static [Role], AtStore)> {
    ACCESS.iter().find(|(name, ..)| *name == operation).map(|(_, roles, at_store)| (*roles, *at_store))
}

/// The API key that a request came with. As an extractor it gives what the gate found; reads as an [`ApiKey`].
#[derive(Clone)]
pub struct Caller(Arc<ApiKey>);

impl Caller {
    pub fn new(key: Arc<ApiKey>) -> Self {
        Self(key)
    }

    #[cfg(test)]
    pub(super) fn key(&self) -> Arc<ApiKey> {
        Arc::clone(&self.0)
    }

    /// # Errors
    /// `role_forbidden`.
    pub fn must(&self, roles: &[Role]) -> Result<(), Refusal> {
        if roles.contains(&self.role) {
            return Ok(());
        }
        let wanted: Vec<&str> = roles.iter().map(|role| role.name()).collect();
        Err(Refusal::new(Code::RoleForbidden).detail(format!("{} may not; {} may", self.role, wanted.join(", "))))
    }

    /// A till's key acts for its own store; other keys for any.
    ///
    /// # Errors
    /// `store_forbidden`.
    pub fn must_be_at(&self, store_id: &StoreId) -> Result<(), Refusal> {
        match &self.store {
            Some((_, own)) if own != store_id => Err(Refusal::new(Code::StoreForbidden)
                .detail(format!("the key belongs to store {own}"))
                .with("store_id", store_id.as_str())),
            _ => Ok(()),
        }
    }

    /// A till's key names the requests of its own store's tills alone.
    ///
    /// # Errors
    /// `store_forbidden`.
    pub fn may_name(&self, number: &Source) -> Result<(), Refusal> {
        match (&self.store, number) {
            (Some((_, own)), Source::Till { store_id, .. }) if own.as_str() != store_id => {
                Err(Refusal::new(Code::StoreForbidden)
                    .detail(format!("the key belongs to store {own}, the request number to another")))
            }
            _ => Ok(()),
        }
    }

    /// Whose request numbers these are: the store's for `pos` keys, so that its tills and a replaced key share them,
    /// else the key's.
    pub fn scope(&self) -> String {
        match &self.store {
            Some((_, store_id)) => format!("store:{store_id}"),
            None => format!("key:{}", self.name),
        }
    }
}

impl Deref for Caller {
    type Target = ApiKey;

    fn deref(&self) -> &ApiKey {
        &self.0
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("key_id", &self.key_id).field("role", &self.role).finish_non_exhaustive()
    }
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.extensions().get::<Caller>().cloned().ok_or_else(|| Code::Unauthenticated.into()))
    }
}

/// Finds the caller of a request. A key in memory costs no query; a text that cannot be a key costs none either; a peer
/// that tried too many wrong keys is refused before the next query, while keys in memory keep working from there.
///
/// # Errors
/// `unauthenticated`, `too_many_requests`, `unavailable`.
pub async fn authenticate(shell: &Shell, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, ApiError> {
    let refused = |detail: &str| Refusal::new(Code::Unauthenticated).detail(detail);
    let mut given = headers.get_all(header::AUTHORIZATION);
    let header = match (given.next(), given.next()) {
        (Some(header), None) => header,
        (None, _) => return Err(refused("send authorization: Bearer <API key>").into()),
        // Which of them a proxy before us went by is not known.
        (Some(_), Some(_)) => return Err(refused("one authorization header, not several").into()),
    };
    let text = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let token = text.and_then(Token::parse).ok_or_else(|| refused("that is not an API key"))?;
    let key = match shell.keys.find(token.key_id).await {
        Some(key) => Some(key),
        None => {
            shell.limits.may_authenticate(peer)?;
            let load = || async {
                let mut conn = shell.office.get().await?;
                find_key(&mut conn, token.key_id).await
            };
            // Boxed: a load is large, and would be part of every request.
            Box::pin(shell.keys.find_or_load(token.key_id, load)).await?
        }
    };
    match key.filter(|key| key.opens_with(&token)) {
        Some(key) => Ok(Caller(key)),
        None => {
            shell.limits.may_authenticate(peer)?;
            shell.limits.auth_failed(peer);
            metrics::counter!("tessera_auth_failures_total").increment(1);
            Err(refused("the API key is not in force").into())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::chain::key::{KeyName, NewToken};
    use crate::id::StoreNo;

    /// A caller of a role, with its token.
    pub(crate) fn caller(role: Role) -> (Caller, NewToken) {
        let token = NewToken::mint(&mut StdRng::seed_from_u64(role as u64));
        let hash = Token::parse(&token.reveal()).unwrap().hash();
        let store = (role == Pos).then(|| (StoreNo::new(1), StoreId::parse("S0001").unwrap()));
        let name = KeyName::parse(format!("{role}-key")).unwrap();
        (Caller(Arc::new(ApiKey::new(token.key_id().to_owned(), name, role, store, hash))), token)
    }

    #[test]
    fn a_till_acts_for_its_own_store_and_others_for_any() {
        let (own, other) = (StoreId::parse("S0001").unwrap(), StoreId::parse("S0002").unwrap());
        let (till, _) = caller(Pos);
        till.must_be_at(&own).unwrap();
        assert_eq!(till.must_be_at(&other).unwrap_err().code, Code::StoreForbidden);
        caller(Admin).0.must_be_at(&other).unwrap();
    }

    #[test]
    fn a_till_names_requests_of_its_own_store() {
        let (till, _) = caller(Pos);
        let number = |text: &str| Source::parse(text).unwrap();
        till.may_name(&number("till:S0001:2:2026-11-22:417")).unwrap();
        till.may_name(&number("order-93")).unwrap();
        let other = number("till:S0002:2:2026-11-22:417");
        assert_eq!(till.may_name(&other).unwrap_err().code, Code::StoreForbidden);
        caller(Admin).0.may_name(&other).unwrap();
    }

    #[test]
    fn the_scope_of_a_till_is_its_store_and_of_others_their_name() {
        assert_eq!(caller(Pos).0.scope(), "store:S0001");
        assert_eq!(caller(Marketing).0.scope(), "key:marketing-key");
    }

    #[test]
    fn a_role_that_may_not_is_told_which_may() {
        let refusal = caller(Pos).0.must(&[Ops, Admin]).unwrap_err();
        assert_eq!(refusal.detail.unwrap(), "pos may not; ops, admin may");
    }

    #[test]
    fn the_table_of_roles_is_frozen() {
        let table: String = ACCESS
            .iter()
            .map(|(name, roles, at_store)| {
                let at_store = if roles.contains(&Pos) { format!(" | {at_store:?}") } else { String::new() };
                let roles: Vec<_> = roles.iter().map(|role| role.name()).collect();
                format!("{name}: {}{at_store}\n", roles.join(" "))
            })
            .collect();
        insta::assert_snapshot!(table);
    }
}
