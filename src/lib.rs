//! Tessera: member and coupon backend of a retail chain.

pub mod app;
pub mod boot;
pub mod cache;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod coupon;
pub mod db;
pub mod event;
pub mod http;
pub mod id;
pub mod member;
pub mod meter;
pub mod node;
pub mod partition;
pub mod problem;
pub mod readiness;
pub mod request;
pub mod secret;
pub mod telemetry;
pub mod verify;
