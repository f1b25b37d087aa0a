//! Erasing a person: everything that tells who a member is goes, and what the ledger needs stays.
//!
//! In one transaction: the identifiers with their index rows of every version; the rows of the family tables
//! ([`super::family`]); of the core row names, birthday, gender, signature, avatar, attributes and home store. The row stays
//! with its id, cancelled and with `erased_at`, so that coupons, redemptions and logs still name something. It never comes
//! back (`member_erased`); whoever registers with the same phone is a new member.
//!
//! What holds nothing to erase: `coupon` and its index rows, `member_rule`, the ledger, logs and events hold ids, names of
//! fields and numbers; the answers in `request` hold ids and, where a registration was refused, the mask of an identifier,
//! for as long as their leaves are kept. The member's coupons are not made void, since void gives stock back; they cannot
//! be redeemed, locked or added to, for their holder is cancelled. Every node forgets within a second.
//!
//! What this does not reach, and ends by itself: old versions of rows until PostgreSQL vacuums them, its write-ahead log
//! and backups until they expire, uploaded files of imports for the days that those are kept.
//!
//! A second erasure changes nothing and gets the same answer. A redemption, a registration or a change of identifiers at
//! the same time is wholly before or wholly after: each locks the member's row or claims a key that this deletes.
//!
//! Checked in this order: the member exists; it was erased before, which is done; a version that `If-Match` names.

pub mod http;
pub(super) mod writer;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::State;
use crate::{coupon::decide::millis, id::MemberId};

/// Why a person is erased. It stands in the audit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EraseReason {
    /// The person asked for it.
    #[default]
    Asked,
    /// A law or a court demands it.
    Law,
    /// The chain keeps nobody longer.
    Retention,
    /// It was no person: a test, a mistake.
    Mistake,
}

/// A member that was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Erased {
    pub member_id: MemberId,
    pub state: State,
    #[serde(serialize_with = "millis")]
    pub erased_at: DateTime<Utc>,
}
