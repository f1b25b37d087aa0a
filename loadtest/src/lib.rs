//! Datasets, load and proof for Tessera at any size.
//!
//! [`dataset`] says what a built dataset holds, by number and without asking the database; `build` makes one.

#![forbid(unsafe_code)]

pub mod build;
pub mod dataset;
pub mod prove;
pub mod sizes;
