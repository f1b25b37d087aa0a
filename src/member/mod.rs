pub mod key;
pub mod store;

use crate::problem::{Code, Refusal};

/// What decides over a member's coupons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Normal,
    /// May be looked up, not redeem or be given coupons.
    Frozen,
    /// Nothing is allowed.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Ordinary,
    Virtual,
    Operations,
}

impl Standing {
    /// Whether coupons may be issued to and redeemed for the member.
    ///
    /// # Errors
    /// `member_frozen`, `member_cancelled`.
    pub fn may_use_coupons(self) -> Result<(), Refusal> {
        match self.state {
            State::Normal => Ok(()),
            State::Frozen => Err(Code::MemberFrozen.into()),
            State::Cancelled => Err(Code::MemberCancelled.into()),
        }
    }
}

impl State {
    const ALL: [(State, i16); 3] = [(State::Normal, 1), (State::Frozen, 2), (State::Cancelled, 3)];

    pub fn number(self) -> i16 {
        Self::ALL.into_iter().find(|(state, _)| *state == self).expect("every state stands in the table").1
    }

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, of)| *of == number).map(|(state, _)| state)
    }
}

impl Kind {
    const ALL: [(Kind, i16); 3] = [(Kind::Ordinary, 1), (Kind::Virtual, 2), (Kind::Operations, 3)];

    pub fn number(self) -> i16 {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).expect("every kind stands in the table").1
    }

    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, of)| *of == number).map(|(kind, _)| kind)
    }
}
