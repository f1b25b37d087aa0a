//! The database: two manners of talking to it, and what is common to both.
//!
//! Partitioned tables that a till or a member waits for go through [`lane`]; unpartitioned ones, jobs and reports
//! through the office pool in [`pool`]. Only [`tx`] and the lane begin transactions.

pub mod copy;
pub mod embedded;
pub mod lane;
pub mod migrate;
pub mod pool;
pub(crate) mod row;
pub mod setting;
pub mod tx;

pub use pool::{is_connection_loss, is_missing_leaf, refused_by, sqlstate};
pub use tx::is_transient;
