//! What a member's state and kind allow: one table.
//!
//! A normal, ordinary member may do everything. What the others may:
//!
//! | to | frozen | cancelled | muted | virtual | operations |
//! |---|---|---|---|---|---|
//! | be looked up, read | yes | yes | yes | yes | yes |
//! | change | yes | – | yes | yes | yes |
//! | hold what identifies a person | yes | – | yes | – | yes |
//! | publish | yes | – | – | yes | yes |
//! | add a key, release a key | – | – | yes | yes | yes |
//! | verify a key | yes | – | yes | yes | yes |
//! | take a key over | – | – | yes | yes | yes |
//! | hand a key over | yes | yes | yes | yes | yes |
//! | be issued coupons, have them locked, redeem them | – | – | yes | yes | – |
//! | have a redemption reversed | yes | yes | yes | yes | yes |
//! | claim coupons | – | – | yes | – | – |
//! | log in | – | – | yes | – | yes |
//! | be governed: state, kind, level, muting | yes | yes | yes | yes | yes |
//! | be erased, be exported | yes | yes | yes | yes | yes |
//!
//! What stands behind it:
//!
//! - A *frozen* member is under investigation: it is found and can be corrected, but spends nothing, gets nothing and
//!   keeps its keys as they are. Goods that were bought before go back all the same.
//! - A *cancelled* member has left. It keeps its data and its keys until it is erased, so that a till that looks one up
//!   can say what it is, that operators can let it come back, and that nobody takes its name meanwhile; its phone number
//!   can pass to a new owner by proof. Coming back is to normal, and not after an erasure (`member_erased`).
//! - A *muted* member may not change what others see of it.
//! - A *virtual* member stands for no person: a card that lies at the till, a shared account. It has no name, birthday,
//!   phone or e-mail, nobody logs in as it, and it claims nothing by itself; it may be issued coupons and redeem them,
//!   and counts for a rule's limit per member as one.
//! - An *operations* member is of the staff or a test: coupons are money, and it gets and spends none.
//!
//! When several things stand against it, the first of `member_cancelled`, `member_frozen`, `member_kind_forbidden`,
//! `member_muted` is told.
//!
//! # From state to state
//!
//! | from \ to | normal | frozen | cancelled |
//! |---|---|---|---|
//! | normal | – | yes | yes |
//! | frozen | yes | – | yes |
//! | cancelled | yes | `member_state_forbidden` | – |
//!
//! A member becomes virtual only when it has nothing that identifies a person (`member_kind_forbidden`).

use super::{Kind, Standing, State};
use crate::problem::{Code, Refusal};

/// Declares the actions with their columns of the table, `+` for yes and `-` for no: frozen, cancelled, muted, virtual,
/// operations.
macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $frozen:tt $cancelled:tt $muted:tt $virtual:tt $operations:tt),+ $(,)?) => {
        /// What somebody wants to do to or for a member.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action { $($(#[$doc])* $name),+ }

        impl Action {
            pub const ALL: &[Action] = &[$(Action::$name),+];

            const fn row(self) -> Row {
                match self {
                    $(Action::$name => Row {
                        frozen: actions!(@ $frozen),
                        cancelled: actions!(@ $cancelled),
                        muted: actions!(@ $muted),
                        r#virtual: actions!(@ $virtual),
                        operations: actions!(@ $operations),
                    }),+
                }
            }
        }
    };
    (@ +) => { true };
    (@ -) => { false };
}

actions! {
    LookUp + + + + +,
    Read + + + + +,
    /// Change the core row, a tag, a role and whatever else is the member's own.
    Change + - + + +,
    /// Hold what identifies a person: name, birthday, phone, e-mail, address, device, location, real name and id card.
    Identify + - + - +,
    /// Change what others see of the member: nickname, signature, avatar, bio.
    Publish + - - + +,
    AddKey - - + + +,
    ReleaseKey - - + + +,
    VerifyKey + - + + +,
    /// Take over an identifier that another has.
    TransferIn - - + + +,
    /// Hand an identifier over to its new owner.
    TransferOut + + + + +,
    /// Be given coupons.
    BeIssued - - + + -,
    /// Have a coupon held for an order.
    Lock - - + + -,
    Redeem - - + + -,
    /// Have a redemption taken back.
    Reverse + + + + +,
    /// Take a coupon by oneself.
    Claim - - + - -,
    LogIn - - + - +,
    /// Change state, kind, level or muting.
    Govern + + + + +,
    Erase + + + + +,
    Export + + + + +,
}

/// What of the table one action has; a normal, ordinary member may always.
#[derive(Debug, Clone, Copy)]
struct Row {
    frozen: bool,
    cancelled: bool,
    muted: bool,
    r#virtual: bool,
    operations: bool,
}

impl Standing {
    /// Whether the member's standing allows it.
    ///
    /// # Errors
    /// `member_cancelled`, `member_frozen`, `member_kind_forbidden`, `member_muted`, in this order.
    pub fn may(self, action: Action) -> Result<(), Refusal> {
        let row = action.row();
        match self.state {
            State::Cancelled if !row.cancelled => return Err(Code::MemberCancelled.into()),
            State::Frozen if !row.frozen => return Err(Code::MemberFrozen.into()),
            _ => {}
        }
        let kind_may = match self.kind {
            Kind::Ordinary => true,
            Kind::Virtual => row.r#virtual,
            Kind::Operations => row.operations,
        };
        if !kind_may {
            return Err(Refusal::new(Code::MemberKindForbidden).with("member_kind", self.kind.name()));
        }
        if self.muted && !row.muted {
            return Err(Code::MemberMuted.into());
        }
        Ok(())
    }
}

impl State {
    /// Whether a member may go from this state to that one; to the same it always may.
    ///
    /// # Errors
    /// `member_state_forbidden`
    pub fn to(self, next: Self) -> Result<(), Refusal> {
        match (self, next) {
            (State::Cancelled, State::Frozen) => Err(Refusal::new(Code::MemberStateForbidden)
                .detail("a cancelled member comes back to normal first")
                .with("state", self.name())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes by action, for: frozen, cancelled, muted, virtual, operations. The names are those of the table above.
    const TABLE: &[(&[Action], [&str; 5])] = {
        const YES: &str = "";
        const CANCELLED: &str = "member_cancelled";
        const FROZEN: &str = "member_frozen";
        const KIND: &str = "member_kind_forbidden";
        const MUTED: &str = "member_muted";
        &[
            (&[Action::LookUp, Action::Read], [YES, YES, YES, YES, YES]),
            (&[Action::Change], [YES, CANCELLED, YES, YES, YES]),
            (&[Action::Identify], [YES, CANCELLED, YES, KIND, YES]),
            (&[Action::Publish], [YES, CANCELLED, MUTED, YES, YES]),
            (&[Action::AddKey, Action::ReleaseKey], [FROZEN, CANCELLED, YES, YES, YES]),
            (&[Action::VerifyKey], [YES, CANCELLED, YES, YES, YES]),
            (&[Action::TransferIn], [FROZEN, CANCELLED, YES, YES, YES]),
            (&[Action::TransferOut], [YES, YES, YES, YES, YES]),
            (&[Action::BeIssued, Action::Lock, Action::Redeem], [FROZEN, CANCELLED, YES, YES, KIND]),
            (&[Action::Reverse], [YES, YES, YES, YES, YES]),
            (&[Action::Claim], [FROZEN, CANCELLED, YES, KIND, KIND]),
            (&[Action::LogIn], [FROZEN, CANCELLED, YES, KIND, YES]),
            (&[Action::Govern], [YES, YES, YES, YES, YES]),
            (&[Action::Erase, Action::Export], [YES, YES, YES, YES, YES]),
        ]
    };

    fn told(standing: Standing, action: Action) -> &'static str {
        standing.may(action).err().map_or("", |refusal| refusal.code.name())
    }

    fn rows() -> impl Iterator<Item = (Action, [&'static str; 5])> {
        TABLE.iter().flat_map(|(actions, codes)| actions.iter().map(move |action| (*action, *codes)))
    }

    #[test]
    fn every_action_is_a_row_of_the_table_once() {
        let mut listed: Vec<String> = rows().map(|(action, _)| format!("{action:?}")).collect();
        let mut all: Vec<String> = Action::ALL.iter().map(|action| format!("{action:?}")).collect();
        listed.sort();
        all.sort();
        assert_eq!(listed, all);
    }

    #[test]
    fn what_each_state_and_kind_may_is_the_table() {
        let normal = Standing { state: State::Normal, kind: Kind::Ordinary, muted: false };
        for (action, codes) in rows() {
            assert_eq!(told(normal, action), "", "{action:?}");
            let others = [
                Standing { state: State::Frozen, ..normal },
                Standing { state: State::Cancelled, ..normal },
                Standing { muted: true, ..normal },
                Standing { kind: Kind::Virtual, ..normal },
                Standing { kind: Kind::Operations, ..normal },
            ];
            for (standing, code) in others.into_iter().zip(codes) {
                assert_eq!(told(standing, action), code, "{action:?} of {standing:?}");
            }
        }
    }

    #[test]
    fn of_several_reasons_the_first_in_the_order_is_told() {
        for (action, [frozen, cancelled, muted, r#virtual, operations]) in rows() {
            for (state, by_state) in [(State::Normal, ""), (State::Frozen, frozen), (State::Cancelled, cancelled)] {
                for (kind, by_kind) in
                    [(Kind::Ordinary, ""), (Kind::Virtual, r#virtual), (Kind::Operations, operations)]
                {
                    for (is_muted, by_muting) in [(false, ""), (true, muted)] {
                        let expected = [by_state, by_kind, by_muting].into_iter().find(|code| !code.is_empty());
                        let standing = Standing { state, kind, muted: is_muted };
                        assert_eq!(told(standing, action), expected.unwrap_or(""), "{action:?} of {standing:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn from_state_to_state_is_the_table() {
        for (from, to, code) in [
            (State::Normal, State::Normal, ""),
            (State::Normal, State::Frozen, ""),
            (State::Normal, State::Cancelled, ""),
            (State::Frozen, State::Normal, ""),
            (State::Frozen, State::Frozen, ""),
            (State::Frozen, State::Cancelled, ""),
            (State::Cancelled, State::Normal, ""),
            (State::Cancelled, State::Frozen, "member_state_forbidden"),
            (State::Cancelled, State::Cancelled, ""),
        ] {
            assert_eq!(from.to(to).err().map_or("", |refusal| refusal.code.name()), code, "{from:?} to {to:?}");
        }
    }
}
