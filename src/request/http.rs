//! Asking for the answer that a request number got.

use actix_web::web::Data;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{KEY_CHARS_MAX, Operation, RequestNumber, Source};
use crate::{
    app::App,
    coupon::http::window,
    db::lane::Cost,
    http::{Answer, ApiError, At, Caller, Reply, Routes, app::Shell, problem::document},
    problem::Code,
};

pub fn routes() -> Routes {
    crate::routes! {
        get_request: RequestNotFound, RequestNumberExpired;
    }
}

/// What a number was used for.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OperationName {
    Register,
    Issue,
    Redeem,
    Reverse,
}

impl From<OperationName> for Operation {
    fn from(name: OperationName) -> Self {
        match name {
            OperationName::Register => Operation::Register,
            OperationName::Issue => Operation::Issue,
            OperationName::Redeem => Operation::Redeem,
            OperationName::Reverse => Operation::Reverse,
        }
    }
}

/// An `Idempotency-Key`, or a till's number as `till:<store>:<register>:<date>:<sequence>`.
#[derive(Debug, Clone)]
struct NumberText(Source);

impl<'de> Deserialize<'de> for NumberText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Source::parse(&text).map(Self).map_err(|_| serde::de::Error::custom("is no request number"))
    }
}

impl utoipa::PartialSchema for NumberText {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        crate::http::input::text_schema(1, KEY_CHARS_MAX, "^[!-.0-~]+$", "till:S0001:2:2026-11-22:417")
    }
}

impl ToSchema for NumberText {}

/// The first answer of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredAnswer {
    /// The HTTP status that was answered.
    status: u16,
    /// The body that was answered: of a 2xx, or a problem.
    #[schema(value_type = Object)]
    answer: serde_json::Value,
}

/// Get the answer of a request number
///
/// For a till that lost its answer. 404 means: not yet, nothing has been decided under this number.
#[utoipa::path(get, path = "/v1/requests/{operation}/{number}", tag = "requests",
    params(("operation" = inline(OperationName), Path), ("number" = inline(NumberText), Path)),
    responses((status = 200, description = "The stored answer", body = StoredAnswer)))]
async fn get_request(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At((operation, number)): At<(OperationName, NumberText)>,
) -> Reply<StoredAnswer> {
    caller.may_name(&number.0)?;
    let number = RequestNumber::new(&caller.scope(), operation.into(), &number.0, &window(&app, &shell))?;
    let mut cost = Cost::default();
    for day in number.days.iter() {
        let (found, one) = app.answers.find((day, number.key)).await?;
        cost += one;
        let Some(stored) = found else { continue };
        let answer = app.desk.show(stored);
        let body = if answer.status < 400 {
            answer.body.to_string()
        } else {
            document(&serde_json::from_str(&answer.body).map_err(ApiError::internal)?).to_string()
        };
        // Byte for byte what was answered.
        let json = format!("{{\"status\":{},\"answer\":{body}}}", answer.status);
        return Ok(Answer::rendered(200, json).metered(cost.into()));
    }
    Err(ApiError::from(Code::RequestNotFound).metered(cost.into()))
}
