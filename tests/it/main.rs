//! One binary of tests against real PostgreSQL and real server processes.

mod input;
mod prove;
mod schema;
mod slice;
mod support;
