//! Who calls, and what they may do.
//!
//! [`ACCESS`] is the one table of operations and roles. The gate reads it before a handler runs, so a handler cannot
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
use crate::chain::key::{ApiKey, Role, Token, find_key};
use crate::problem::{Code, Refusal};
use crate::request::Source;

use Role::{Admin, Marketing, Ops, Pos};

/// Operation → roles. The name is the handler's, and the `operationId` of the OpenAPI document.
pub const ACCESS: &[(&str, &[Role])] = &[
    // Stores.
    ("list_stores", &[Marketing, Ops, Admin]),
    ("create_store", &[Ops, Admin]),
    ("get_store", &[Pos, Marketing, Ops, Admin]),
    ("update_store", &[Ops, Admin]),
    // Members.
    ("register_member", &[Pos, Marketing, Ops, Admin]),
    ("lookup_member", &[Pos, Marketing, Ops, Admin]),
    ("get_member", &[Pos, Marketing, Ops, Admin]),
    ("update_member", &[Pos, Ops, Admin]),
    // Rules.
    ("create_rule", &[Marketing, Admin]),
    ("list_rules", &[Marketing, Ops, Admin]),
    ("get_rule", &[Pos, Marketing, Ops, Admin]),
    ("list_rule_versions", &[Marketing, Ops, Admin]),
    ("update_rule", &[Marketing, Admin]),
    ("pause_rule", &[Marketing, Ops, Admin]),
    ("resume_rule", &[Marketing, Ops, Admin]),
    ("end_rule", &[Marketing, Admin]),
    // Coupons.
    ("issue_coupons", &[Pos, Marketing, Admin]),
    ("list_rule_coupons", &[Marketing, Ops, Admin]),
    ("list_member_coupons", &[Pos, Marketing, Ops, Admin]),
    ("get_coupon", &[Pos, Marketing, Ops, Admin]),
    ("validate_coupon", &[Pos, Ops, Admin]),
    ("lock_coupon", &[Pos, Admin]),
    ("release_coupon", &[Pos, Ops, Admin]),
    ("redeem_coupon", &[Pos, Admin]),
    ("reverse_coupon", &[Pos, Ops, Admin]),
    ("void_coupon", &[Marketing, Ops, Admin]),
    ("bind_coupon", &[Pos, Marketing, Ops, Admin]),
    ("claim_coupon", &[Pos, Marketing, Admin]),
    ("redeem_basket", &[Pos, Admin]),
    ("get_redemption", &[Pos, Marketing, Ops, Admin]),
    // Request numbers.
    ("get_request", &[Pos, Marketing, Ops, Admin]),
];

/// The roles of an operation.
pub fn roles_of(operation: &str) -> Option<&'static [Role]> {
    ACCESS.iter().find(|(name, _)| *name == operation).map(|(_, roles)| *roles)
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
            shell.keys.find_or_load(token.key_id, load).await?
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
            .map(|(name, roles)| {
                let roles: Vec<_> = roles.iter().map(|role| role.name()).collect();
                format!("{name}: {}\n", roles.join(" "))
            })
            .collect();
        insta::assert_snapshot!(table);
    }
}
