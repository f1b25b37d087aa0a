//! One binary of tests against real PostgreSQL and real server processes.

mod chain;
mod coherence;
mod coupon_imports;
mod imports;
mod issue_jobs;
mod jobs;
mod races;
mod crash;
mod family;
mod lane;
mod logs;
mod numbers;
mod erase;
mod input;
mod journey;
mod keys;
mod life;
mod office;
mod offline;
mod prove;
mod leaks;
mod lists;
mod retire;
mod rotate;
mod rotate_again;
mod reading;
mod reveal;
mod rules;
mod rush;
mod schema;
mod slice;
mod states;
mod support;
mod verify;
mod wallet;

/// Tables that the tests of this binary add to the schema.
const MORE_SCHEMA: &str = "";
