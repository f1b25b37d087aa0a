//! One binary of tests against real PostgreSQL and real server processes.

mod crash;
mod lane;
mod slice;
mod support;
