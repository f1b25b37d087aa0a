//! `loadtest`: fills a Tessera with rows, sends it load as tills do, and proves afterwards that nothing was lost.
//!
//! [`dataset`] says what a built dataset holds, by number and without asking the database; [`build`] makes one. [`drive`]
//! sends load, reports and compares it, and checks the books against the answers.

#![forbid(unsafe_code)]

pub mod build;
pub mod dataset;
pub mod drive;
pub mod prove;
pub mod sizes;
