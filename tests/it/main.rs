//! One binary of tests against real PostgreSQL and real server processes.

mod chain;
mod coherence;
mod imports;
mod jobs;
mod races;
mod crash;
mod lane;
mod numbers;
mod input;
mod office;
mod prove;
mod leaks;
mod rotate;
mod schema;
mod slice;
mod support;
mod verify;
