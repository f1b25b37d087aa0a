//! HTTP: what every endpoint shares.
//!
//! actix types stand here and in each domain's `http.rs`, nowhere else. A request passes, in this order: the method
//! (405), the caller (401), the role (403), the rate (429), a till's store (422), then the handler's extractors from left to right: path
//! (404), query, headers (400), body (415, 413, 400, 422); then the domain decides. `chain/http.rs` is the pattern that
//! the other domains follow.

pub mod answer;
pub mod app;
pub mod caller;
pub mod csv;
pub mod extract;
mod gate;
pub mod input;
mod lane;
pub mod limit;
pub mod meter;
pub mod number;
pub mod openapi;
mod ops;
pub mod page;
pub mod problem;
pub mod route;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;

pub use answer::{Answer, ETag, IfMatch, IfMatchGiven, Reply};
pub use caller::Caller;
pub use extract::{At, Json, JsonText, Query};
pub use number::{Number, TillNumber};
pub use page::{Cursor, Page, PageLimit};
pub use problem::ApiError;
pub use route::{Route, Routes};
pub use stream::{FileBody, FileOrJson};
