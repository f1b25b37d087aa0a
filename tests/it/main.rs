//! One binary of tests against real PostgreSQL and real server processes.

mod chain;
mod coherence;
mod races;
mod crash;
mod lane;
mod numbers;
mod erase;
mod input;
mod keys;
mod office;
mod prove;
mod leaks;
mod rotate;
mod schema;
mod slice;
mod states;
mod support;
mod verify;
