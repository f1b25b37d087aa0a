//! A CSV body that fits in memory: `text/csv` in UTF-8, bounded in size and time as JSON bodies are.
//!
//! What the bytes say is read by whoever knows the columns (`chain::csv`). Files that do not fit in memory are another
//! matter and do not come this way.

use actix_web::dev::Payload;
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::LocalBoxFuture;

use super::extract::read_body;
use super::problem::ApiError;

/// The media type, as documents and errors say it.
pub const MEDIA_TYPE: &str = "text/csv";

/// The bytes of a CSV body.
#[derive(Debug)]
pub struct Csv(pub Bytes);

impl FromRequest for Csv {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = read_body(request, payload, MEDIA_TYPE);
        Box::pin(async move { Ok(Self(body.await?)) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::{App, HttpResponse, test, web};

    use super::*;
    use crate::http::extract::BodyLimit;

    async fn take(Csv(body): Csv) -> HttpResponse {
        HttpResponse::Ok().body(body)
    }

    #[actix_web::test]
    async fn only_csv_in_utf_8_of_the_size_that_is_taken() {
        let limit = BodyLimit { bytes_max: 8, timeout: Duration::from_secs(1) };
        let app =
            test::init_service(App::new().service(web::resource("/").app_data(limit).route(web::post().to(take))))
                .await;
        for (content_type, body, status) in [
            ("text/csv", "a,b\n1,2", 200),
            ("Text/CSV; charset=UTF-8; header=present", "a,b\n1,2", 200),
            ("text/csv", "a,b\n1,2,3", 413),
            ("text/csv; charset=gbk", "a", 415),
            ("application/json", "{}", 415),
            ("text/csvx", "a", 415),
            ("", "a", 415),
        ] {
            let mut request = test::TestRequest::post().set_payload(body.to_owned());
            if !content_type.is_empty() {
                request = request.insert_header(("content-type", content_type));
            }
            let response = test::call_service(&app, request.to_request()).await;
            assert_eq!(response.status().as_u16(), status, "{content_type} {body}");
        }
    }
}
