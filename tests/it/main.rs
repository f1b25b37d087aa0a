//! One binary of tests against real PostgreSQL and real server processes.

mod slice;
mod support;
mod verify;
