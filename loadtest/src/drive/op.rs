//! The requests that tills and offices make.

use serde::{Deserialize, Serialize};

macro_rules! ops {
    ($($variant:ident $name:literal $writes:literal),+ $(,)?) => {
        /// A kind of request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Op {
            $($variant,)+
        }

        impl Op {
            pub const ALL: &[Op] = &[$(Op::$variant),+];

            /// As it stands in results; of writes with a number also as the API calls it.
            pub const fn name(self) -> &'static str {
                match self { $(Op::$variant => $name),+ }
            }

            /// Whether it changes something under a request number.
            pub const fn writes(self) -> bool {
                match self { $(Op::$variant => $writes),+ }
            }
        }
    };
}

ops! {
    Lookup "lookup" false,
    Member "member" false,
    Wallet "wallet" false,
    Coupon "coupon" false,
    Validate "validate" false,
    Lock "lock" true,
    Release "release" true,
    Redeem "redeem" true,
    Reverse "reverse" true,
    Claim "claim" true,
    Issue "issue" true,
    Register "register" true,
}

impl Op {
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.name() == name)
    }

    pub fn index(self) -> usize {
        self as usize
    }
}
