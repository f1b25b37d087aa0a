//! Request numbers as they come in: from a till's body fields, or from the `Idempotency-Key` header.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use chrono::NaiveDate;

use super::caller::Caller;
use super::problem::ApiError;
use crate::problem::{Code, Refusal};
use crate::request::{KEY_CHARS_MAX, Operation, RequestNumber, Source, Window};

/// The header.
pub const HEADER: &str = "Idempotency-Key";

/// What it may hold, for the document.
pub const DESCRIPTION: &str = "The request's number. A UUIDv7 or ULID belongs to the day of its instant, and a till's \
    `till:<store>:<register>:<business date>:<sequence>` to that date: good from 35 days back to 1 ahead, outside \
    `request_number_expired`. Anything else (a UUIDv7 or ULID whose instant lies outside 2020 to 2100 as well, for no \
    clock has made it) is good for 24 hours. A UUID is the same number in upper and in lower case. Not needed where the \
    body has a `sequence`.";

/// The text of a number, for the document.
pub struct NumberText;

impl utoipa::PartialSchema for NumberText {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        super::input::text_schema(1, KEY_CHARS_MAX, "^[!-~]+$", "0192f7c5-6a30-7cc3-98c4-dc0c0c07398f")
    }
}

impl utoipa::ToSchema for NumberText {}

/// The number in the header, if there is one. Extract it and call [`Number::of`]. A till's number of another store than
/// the caller's is refused.
#[derive(Debug, Clone)]
pub struct Number(pub Option<Source>);

/// The part of a body that is a till's natural number. All four together, or no `sequence`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TillNumber<'a> {
    pub store_id: Option<&'a str>,
    pub register: Option<&'a str>,
    pub business_date: Option<NaiveDate>,
    pub sequence: Option<u32>,
}

impl Number {
    /// The request's number: the till's own if its body has a `sequence`, else the header's.
    ///
    /// # Errors
    /// `invalid_field` when a till's number lacks a part; `request_number_required` when there is none;
    /// `request_number_expired`.
    pub fn of(
        &self,
        caller: &Caller,
        operation: Operation,
        till: TillNumber<'_>,
        window: &Window,
    ) -> Result<RequestNumber, ApiError> {
        let Some(source) = till.source()?.or_else(|| self.0.clone()) else {
            return Err(Refusal::new(Code::RequestNumberRequired)
                .detail("send register, business_date and sequence, or the header Idempotency-Key")
                .into());
        };
        Ok(RequestNumber::new(&caller.scope(), operation, &source, window)?)
    }
}

impl TillNumber<'_> {
    fn source(self) -> Result<Option<Source>, Refusal> {
        let Some(sequence) = self.sequence else { return Ok(None) };
        let needed = |field| Refusal::invalid_field(field, "is needed with sequence");
        Ok(Some(Source::Till {
            store_id: self.store_id.ok_or_else(|| needed("store_id"))?.to_owned(),
            register: self.register.ok_or_else(|| needed("register"))?.to_owned(),
            business_date: self.business_date.ok_or_else(|| needed("business_date"))?,
            sequence,
        }))
    }
}

impl FromRequest for Number {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let mut values = request.headers().get_all(HEADER);
        ready(match (values.next(), values.next()) {
            (None, _) => Ok(Self(None)),
            (Some(value), None) => value
                .to_str()
                .map_err(|_| Refusal::new(Code::MalformedHeader).with("header", HEADER))
                .and_then(Source::parse)
                .and_then(|source| match request.extensions().get::<Caller>() {
                    Some(caller) => caller.may_name(&source).map(|()| Self(Some(source))),
                    None => Ok(Self(Some(source))),
                })
                .map_err(ApiError::from),
            (Some(_), Some(_)) => Err(Refusal::new(Code::MalformedHeader)
                .detail("one Idempotency-Key, not several")
                .with("header", HEADER)
                .into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::chain::key::Role;
    use crate::clock::Zone;
    use crate::http::caller::tests::caller;

    fn window() -> Window {
        Window::new("2026-11-22T02:00:00Z".parse().unwrap(), Zone::DEFAULT)
    }

    #[test]
    fn a_till_s_own_number_comes_before_the_header() {
        let (caller, _) = caller(Role::Pos);
        let header = Number(Some(Source::Key("x".into())));
        let till = TillNumber {
            store_id: Some("S0001"),
            register: Some("2"),
            business_date: "2026-11-22".parse().ok(),
            sequence: Some(417),
        };
        let of = |number: &Number, till| number.of(&caller, Operation::Redeem, till, &window());
        let natural = of(&Number(None), till).unwrap();
        assert_eq!(of(&header, till).unwrap(), natural);
        assert_ne!(of(&header, TillNumber::default()).unwrap(), natural);
        let code = |outcome: Result<_, ApiError>| outcome.unwrap_err().code();
        assert_eq!(code(of(&Number(None), TillNumber::default())), Code::RequestNumberRequired);
        assert_eq!(code(of(&header, TillNumber { register: None, ..till })), Code::InvalidField);
    }

    #[actix_web::test]
    async fn a_header_that_is_none_or_several_is_refused() {
        for (values, accepted) in [(vec!["a"], true), (vec![], true), (vec!["a b"], false), (vec!["a", "b"], false)] {
            let mut request = TestRequest::post();
            for value in &values {
                request = request.append_header((HEADER, *value));
            }
            let outcome = Number::extract(&request.to_http_request()).await;
            assert_eq!(outcome.is_ok(), accepted, "{values:?}");
        }
    }
}
