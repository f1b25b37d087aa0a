//! What a member's state and kind allow: one table.

use super::{Standing, State};
use crate::problem::{Code, Refusal};

/// What somebody wants to do to or for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Change the core row, a profile, an address, a device and whatever else is the member's own.
    Change,
    /// Change what others see of the member: nickname, signature, avatar, bio.
    Publish,
    /// Be given coupons, and redeem them.
    UseCoupons,
    /// Change state, kind, level or muting.
    Govern,
}

impl Action {
    pub const ALL: &[Action] = &[Action::Change, Action::Publish, Action::UseCoupons, Action::Govern];
}

impl Standing {
    /// Whether the member's standing allows it.
    ///
    /// # Errors
    /// `member_cancelled`, `member_frozen`, `member_muted`, in this order.
    pub fn may(self, action: Action) -> Result<(), Refusal> {
        match (self.state, action) {
            (State::Cancelled, _) => Err(Code::MemberCancelled.into()),
            (State::Frozen, Action::UseCoupons) => Err(Code::MemberFrozen.into()),
            (_, Action::Publish) if self.muted => Err(Code::MemberMuted.into()),
            _ => Ok(()),
        }
    }
}
