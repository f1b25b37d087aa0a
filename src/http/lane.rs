//! Stored answers of the lane as HTTP.

use actix_web::web::Bytes;

use super::{Answer, ApiError, Reply};
use crate::{db::lane::Cost, problem::Refusal, request::store};

impl store::Answer {
    /// The answer as it is sent: the body of a 2xx as it was stored, a refusal as a problem.
    ///
    /// # Errors
    /// The refusal.
    pub fn reply<T>(self, cost: Cost) -> Reply<T> {
        if self.status < 400 {
            let body = Bytes::copy_from_slice(self.body.as_bytes());
            return Ok(Answer::rendered(self.status, body).metered(cost.into()).replayed(self.replayed));
        }
        let refusal: Refusal = serde_json::from_str(&self.body).map_err(ApiError::internal)?;
        let error = ApiError::from(refusal).metered(cost.into());
        Err(if self.replayed { error.replayed() } else { error })
    }
}
