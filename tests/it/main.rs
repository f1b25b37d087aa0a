//! One binary of tests against real PostgreSQL and real server processes.

mod chain;
mod coherence;
mod imports;
mod jobs;
mod races;
mod crash;
mod family;
mod lane;
mod logs;
mod numbers;
mod erase;
mod input;
mod keys;
mod life;
mod office;
mod prove;
mod leaks;
mod rotate;
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
