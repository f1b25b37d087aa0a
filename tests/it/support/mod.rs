//! What tests stand on: a throw-away cluster, a database per test, servers in and out of this process.

pub mod command;
pub mod db;
pub mod coupon_job;
mod dump;
pub mod job;
pub mod offline;
pub mod pair;
pub mod proxy;
pub mod server;
pub mod vault;

pub use db::TestDb;
pub use dump::dump;
pub use pair::Pair;
pub use server::{Server, TestApp};

/// Counts that CI scales down; the long tests run them in full.
pub fn scaled(short: usize, long: usize) -> usize {
    if std::env::var_os("TESSERA_LONG").is_some() { long } else { short }
}
