//! `loadtest`: fills a Tessera with rows, sends it load as tills do, and proves afterwards that nothing was lost.
//!
//! [`build`] fills tables; [`drive`] sends load, reports and compares it, and checks the books against the answers.

#![forbid(unsafe_code)]

pub mod build;
pub mod drive;
