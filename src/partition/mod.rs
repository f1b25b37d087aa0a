//! The partition layer: how tables are split, which leaf a key lives in, how leaves come and go, and the proof that a
//! statement touches no more of them than it claims.
//!
//! Invariants: a leaf's name follows from table and key without asking the database; a row sent to the wrong leaf is
//! refused by PostgreSQL, so a mistake here can't corrupt; there is never a default partition. Nothing here knows what a
//! coupon or a member is, except expiry, which takes index rows along with the coupons of a retired month.

mod ddl;
pub mod expire;
mod plan;
pub mod proof;
mod query;
mod router;
mod sql;
mod standing;
pub mod upkeep;
mod walk;

#[cfg(test)]
pub(crate) mod testdb;
#[cfg(test)]
mod tests;

pub use ddl::{Attached, DdlError, LeafOutcome, Locked, REPORT_ROLE, SERVICE_ROLE, attached, create_leaf};
pub use plan::{Added, Encoding, Expire, Keep, Plan, PlanError, Plans, Range, Retain, Split, Step, plan, plans};
pub use query::{Claim, Query, QueryError, Route, Touch, load, queries, query};
pub use router::Leaf;
pub use standing::{Closed, closed};
pub use walk::Walked;
