//! The identifiers of a member over HTTP. Bodies hold them, since personal data never stands in a URL.

use std::sync::Arc;

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    super::http::{IdentifierText, actor, one_identifier},
    KeyId, MemberKeys, Proof, TransferReason,
};
use crate::{
    app::App,
    chain::{key::Role, system::Purpose},
    db::lane::Cost,
    http::{Answer, ApiError, At, Caller, Json, Reply, Routes, input::present},
    id::MemberId,
    member::{desk::MemberError, key},
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_keys: MemberNotFound;
        add_key: IdentifierInvalid, MemberNotFound, MemberCancelled, MemberFrozen, MemberKindForbidden, MemberKeysFull,
            MemberKeyTaken;
        change_key: IdentifierInvalid, MemberNotFound, MemberCancelled, MemberFrozen, MemberKindForbidden,
            MemberKeyNotFound, MemberKeyTaken;
        verify_key: IdentifierInvalid, MemberNotFound, MemberErased, MemberCancelled, MemberKeyNotFound;
        transfer_key: IdentifierInvalid, MemberNotFound, MemberCancelled, MemberFrozen, MemberKindForbidden,
            MemberKeysFull;
        release_key: MemberNotFound, MemberCancelled, MemberFrozen, MemberKeyNotFound, MemberKeyLast;
    }
}

/// A body with exactly one identifier and what stands beside it.
macro_rules! body {
    ($(#[$doc:meta])* $name:ident ($min:tt ..= $max:tt) { $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        #[schema(min_properties = $min, max_properties = $max)]
        struct $name {
            #[serde(default, deserialize_with = "present")]
            #[schema(nullable = false, example = "+8613800000001")]
            phone: Option<IdentifierText>,
            #[serde(default, deserialize_with = "present")]
            #[schema(nullable = false)]
            email: Option<IdentifierText>,
            #[serde(default, deserialize_with = "present")]
            #[schema(nullable = false)]
            username: Option<IdentifierText>,
            #[serde(default, deserialize_with = "present")]
            #[schema(nullable = false)]
            card: Option<IdentifierText>,
            /// As in a registration.
            #[serde(default, deserialize_with = "present")]
            #[schema(nullable = false)]
            external: Option<IdentifierText>,
            $($(#[$field_doc])* $field: $kind),*
        }

        impl $name {
            async fn identifier(&self, app: &App, purpose: Purpose) -> Result<key::Identifier, ApiError> {
                let text = |field: &Option<IdentifierText>| field.clone();
                let systems = if self.external.is_none() { Arc::default() } else { app.systems.get().await? };
                let found = one_identifier(app.region, &systems, purpose, [
                    (key::Kind::Phone, text(&self.phone)),
                    (key::Kind::Email, text(&self.email)),
                    (key::Kind::Username, text(&self.username)),
                    (key::Kind::Card, text(&self.card)),
                    (key::Kind::External, text(&self.external)),
                ]);
                Ok(found?)
            }
        }
    };
}

body! {
    /// An identifier to be added.
    NewKey (1..=2) {
        /// What the caller has seen, if anything: the identifier is verified then.
        #[serde(default, deserialize_with = "present")]
        #[schema(nullable = false)]
        proof: Option<Proof>,
    }
}

body! {
    /// An identifier that takes the place of another of its kind.
    KeyChange (1..=3) {
        /// The one that goes. Absent, it is the member's phone for a phone, its e-mail for an e-mail, else the oldest of
        /// the kind.
        #[serde(default, deserialize_with = "present")]
        #[schema(nullable = false)]
        replaces: Option<KeyId>,
        /// What the caller has seen, if anything: the new identifier is verified then.
        #[serde(default, deserialize_with = "present")]
        #[schema(nullable = false)]
        proof: Option<Proof>,
    }
}

body! {
    /// An identifier that somebody proved to have.
    VerifiedKey (2..=2) {
        proof: Proof,
    }
}

body! {
    /// An identifier that has a new owner.
    KeyTransfer (3..=3) {
        /// What the caller has seen of the new owner.
        proof: Proof,
        reason: TransferReason,
    }
}

type Changed = Result<(Result<MemberKeys, Refusal>, Cost), MemberError>;

fn reply(changed: Changed) -> Reply<MemberKeys> {
    let (changed, cost) = changed?;
    let keys = changed.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    Ok(Answer::ok(keys).metered(cost.into()))
}

/// List the identifiers of a member
///
/// Masked, the oldest first.
#[utoipa::path(get, path = "/v1/members/{member_id}/keys", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "The identifiers", body = MemberKeys)))]
async fn list_keys(app: Data<App>, At(member_id): At<MemberId>) -> Reply<MemberKeys> {
    let (found, cost) = app.members.keys(member_id).await?;
    let keys = found.ok_or_else(|| ApiError::from(Code::MemberNotFound).metered(cost.into()))?;
    Ok(Answer::ok(keys).metered(cost.into()))
}

/// Add an identifier to a member
///
/// A member may have several of a kind; its first phone and e-mail are those that it shows. Of many members that want one
/// identifier at once, one gets it. Adding what the member has changes nothing. Checked in this order: the identifier;
/// the member exists; it has it already, which is done; its state and kind; it has room for one more; the identifier is
/// free (`member_key_taken`, with the `member_id` that has it).
#[utoipa::path(post, path = "/v1/members/{member_id}/keys", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All identifiers of the member", body = MemberKeys)))]
async fn add_key(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(body): Json<NewKey>,
) -> Reply<MemberKeys> {
    let identifier = body.identifier(&app, Purpose::Claim).await?;
    reply(app.members.add_key(actor(&caller), member_id, identifier, body.proof).await)
}

/// Replace an identifier of a member by another of its kind
///
/// The old one is free from then on. Where the new one is there and the old one is not, it was done before. A till must
/// have seen a proof. Checked in this order: proof (of a till); the identifier; the member exists; done before; state and kind; there is one to replace; the new one is
/// free (`member_key_taken`).
#[utoipa::path(post, path = "/v1/members/{member_id}/keys/change", tag = "members",
    params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All identifiers of the member", body = MemberKeys)))]
async fn change_key(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(body): Json<KeyChange>,
) -> Reply<MemberKeys> {
    if caller.role == Role::Pos && body.proof.is_none() {
        return Err(ApiError::invalid_field("proof", "a till must say what it has seen of the new identifier"));
    }
    let identifier = body.identifier(&app, Purpose::Claim).await?;
    reply(app.members.change_key(actor(&caller), member_id, body.replaces, identifier, body.proof).await)
}

/// Write down that an identifier was proved
///
/// The caller has seen the proof: a code that was sent, a login. Checked in this order: the identifier; the member
/// exists; its state; it has the identifier.
#[utoipa::path(post, path = "/v1/members/{member_id}/keys/verify", tag = "members",
    params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All identifiers of the member", body = MemberKeys)))]
async fn verify_key(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(body): Json<VerifiedKey>,
) -> Reply<MemberKeys> {
    let identifier = body.identifier(&app, Purpose::Find).await?;
    reply(app.members.verify_key(actor(&caller), member_id, identifier, body.proof).await)
}

/// Hand an identifier over to its new owner
///
/// For a phone number that the operator gave to somebody else: whoever had it loses it, be it the last, frozen or
/// cancelled, and this member has it, verified; nobody else can have it in between. Audited, and written in the log of
/// both. Whoever had it may be left without any identifier, and is then found by id alone. If nobody had it, it is added;
/// that is not audited, since it was taken from nobody. Checked in this order: the identifier; the member exists; it has
/// it already, which is done; its state and kind; it has room for one more.
#[utoipa::path(post, path = "/v1/members/{member_id}/keys/transfer", tag = "members",
    params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "All identifiers of the member", body = MemberKeys)))]
async fn transfer_key(
    app: Data<App>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(body): Json<KeyTransfer>,
) -> Reply<MemberKeys> {
    let identifier = body.identifier(&app, Purpose::Claim).await?;
    reply(app.members.transfer_key(actor(&caller), member_id, identifier, body.proof, body.reason).await)
}

/// Release an identifier of a member
///
/// It is free from then on. Checked in this order: the member exists; its state; it has the identifier; it is not the
/// last one (but for a virtual member).
#[utoipa::path(delete, path = "/v1/members/{member_id}/keys/{key_id}", tag = "members",
    params(("member_id" = MemberId, Path), ("key_id" = KeyId, Path)),
    responses((status = 204, description = "The member does not have it any more")))]
async fn release_key(app: Data<App>, caller: Caller, At((member_id, key_id)): At<(MemberId, KeyId)>) -> Reply<()> {
    let (released, cost) = app.members.release_key(actor(&caller), member_id, key_id).await?;
    released.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    Ok(Answer::no_content().metered(cost.into()))
}
