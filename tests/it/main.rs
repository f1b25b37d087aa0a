//! One binary of tests against real PostgreSQL and real server processes.

mod coherence;
mod races;
mod crash;
mod lane;
mod numbers;
mod input;
mod office;
mod prove;
mod schema;
mod slice;
mod support;
mod verify;
