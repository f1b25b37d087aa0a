//! One binary of tests against real PostgreSQL and real server processes.

mod chain;
mod coherence;
mod cost;
mod coupon_imports;
mod crash;
mod erase;
mod family;
mod grown;
mod imports;
mod input;
mod issue_jobs;
mod jobs;
mod journey;
mod keys;
mod lane;
mod lane_alone;
mod lane_helpers;
mod lane_statements;
mod leaks;
mod life;
mod lists;
mod logs;
mod numbers;
mod office;
mod offline;
mod offline_again;
mod offline_races;
mod offline_totals;
mod prove;
mod races;
mod reading;
mod retire;
mod reveal;
mod rotate;
mod rotate_again;
mod rules;
mod rush;
mod schema;
mod slice;
mod states;
mod support;
mod verify;
mod wallet;
mod warm;

/// Tables that the tests of this binary add to the schema.
const MORE_SCHEMA: &str = "";
