//! The outbox: what happened, for feeds and for the caches of other nodes.
//!
//! An event is written in the transaction of the change it tells of. Bodies hold ids and masks, never personal data.

pub mod store;
pub mod tail;

use crate::id::EventId;

/// What happened. The numbers stand in rows and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    MemberRegistered,
    MemberChanged,
    /// An identifier changed hands. The subject is `member::cache::key_subject` of its key, an event for each version of
    /// the blind key that is known; 0 once a rotation has taken that out: any key may be meant.
    MemberKeyMoved,
    /// Something beside the core row: an address, a profile. What is remembered of the member stays right.
    MemberDetailChanged,
    /// A file of members has been imported to its end. The subject is the job.
    MembersImported,
    CouponsIssued,
    CouponRedeemed,
    CouponReversed,
    CouponLocked,
    CouponReleased,
    CouponVoided,
    CouponBound,
    /// Those of a job were made void, as many as went into one transaction. The subject is the rule.
    CouponsVoided,
    /// A file of coupons of older systems has been imported to its end. The subject is the job.
    CouponsImported,
    RuleChanged,
    StoreChanged,
    ApiKeyChanged,
    /// A till's offline redemption did not fit. The subject is the conflict, as of the next.
    ConflictRecorded,
    ConflictResolved,
}

impl Kind {
    const ALL: [(Kind, i16); 19] = [
        (Kind::MemberRegistered, 1),
        (Kind::MemberChanged, 2),
        (Kind::MemberKeyMoved, 3),
        (Kind::MemberDetailChanged, 4),
        (Kind::MembersImported, 5),
        (Kind::CouponsIssued, 10),
        (Kind::CouponRedeemed, 11),
        (Kind::CouponReversed, 12),
        (Kind::CouponLocked, 13),
        (Kind::CouponReleased, 14),
        (Kind::CouponVoided, 15),
        (Kind::CouponBound, 16),
        (Kind::CouponsVoided, 17),
        (Kind::CouponsImported, 18),
        (Kind::RuleChanged, 20),
        (Kind::StoreChanged, 30),
        (Kind::ApiKeyChanged, 40),
        (Kind::ConflictRecorded, 50),
        (Kind::ConflictResolved, 51),
    ];

    pub fn number(self) -> i16 {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).expect("every kind stands in the table").1
    }

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, of)| *of == number).map(|(kind, _)| kind)
    }
}

/// An event to be written.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event_id: EventId,
    pub kind: Kind,
    /// The id of what changed.
    pub subject: i64,
    pub body: serde_json::Value,
}
