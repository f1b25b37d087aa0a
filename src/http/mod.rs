pub mod caller;
pub mod limit;
pub mod meter;
pub mod openapi;
pub mod problem;
