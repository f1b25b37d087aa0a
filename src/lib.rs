//! Tessera: member and coupon backend of a retail chain, on partitioned PostgreSQL.
//!
//! # How it hangs together
//!
//! A request comes in through [`http`], which knows who calls and what a body may look like, and reaches a domain:
//! [`chain`] (stores, API keys), [`member`] or [`coupon`]. What a till or a member waits for goes through the lane
//! ([`db::lane`]): requests that wait while its few connections are busy form the next batch, reads by leaf, writes as
//! one transaction in which a domain decides over locked rows. What is not partitioned goes through the office
//! ([`db::pool`]).
//!
//! Five ideas hold it together, and each has the place that keeps it:
//!
//! 1. *One question, one partition.* [`partition`] turns a key into a leaf without asking the database; each file under
//!    `sql/queries` claims what it touches, and `tessera prove` runs the claims.
//! 2. *A look-up by anything else is a table of its own*, written with its base row in one transaction and compared
//!    with it by [`verify`].
//! 3. *The database is the referee*: a constraint, a conditional insert or a locked row decides, never a read before a
//!    write. Where rows are locked in one order, batches do not deadlock; the order stands in [`coupon::store`].
//! 4. *A request number makes every write repeatable* ([`request`]).
//! 5. *What is claimed is proved by a command*: `tessera prove`, `tessera verify`, the tests and the benches.
//!
//! Ids carry what routes them ([`id`]): a coupon's code carries its issue day, a redemption its business day. Time is a
//! parameter ([`clock`]), and so is randomness. What identifies a person is encrypted ([`secret`]) and stands in the
//! member tables alone. Nodes learn of each other's changes from the [`event`] table and pass their [`cache`]s by when
//! they cannot keep up.
//!
//! [`boot`] finds or starts a database, [`app`] wires a node, [`node`] serves it, [`cli`] is the command line.

pub mod cli;
pub mod config;
pub mod boot;
pub mod node;
pub mod descriptors;
pub mod app;

pub mod clock;
pub mod id;
pub mod secret;
pub mod problem;
pub mod readiness;
pub mod meter;
pub mod telemetry;

pub mod partition;
pub mod db;
pub mod cache;
pub mod event;
pub mod request;
pub mod job;

pub mod http;
pub mod chain;
pub mod member;
pub mod coupon;
pub mod verify;
