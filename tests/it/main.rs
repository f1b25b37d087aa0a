//! One binary of tests against real PostgreSQL and real server processes.

mod coherence;
mod imports;
mod races;
mod crash;
mod lane;
mod input;
mod prove;
mod schema;
mod slice;
mod support;
mod verify;
