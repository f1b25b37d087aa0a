pub mod caller;
pub mod input;
pub mod limit;
pub mod meter;
pub mod openapi;
pub mod problem;
