//! A body that is a file: taken as it comes, never whole in memory.
//!
//! `text/csv` only (415), plain or `content-encoding: gzip`, bounded in size as it unpacks (413). What is bounded in time
//! is the pause between two pieces (408), not the whole: a large file over a slow line is no fault.
//!
//! What is packed is unpacked a little at a time (`STEP_BYTES`), since a byte of it may stand for a thousand: so a
//! file made to burst holds neither a worker nor memory for long, and is refused as soon as it is too large.

use std::future::{Ready, ready};
use std::time::Duration;

use actix_web::dev::{Decompress, Payload};
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap};
use actix_web::web::{Bytes, Data};
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::LocalBoxFuture;
use futures_util::{StreamExt, stream, stream::LocalBoxStream};
use serde::de::DeserializeOwned;

use super::app::Shell;
use super::extract::Json;
use super::problem::ApiError;
use crate::problem::{Code, Refusal};

/// Packed bytes that are unpacked at once. DEFLATE makes at most 1,032 of one, hence a piece of half a MiB at most, in
/// about a millisecond; and the decoder does so few in place, where it would hand more to a thread.
const STEP_BYTES: usize = 512;

type Steps = LocalBoxStream<'static, Result<Bytes, PayloadError>>;

/// A CSV file that is being sent.
pub struct FileBody {
    payload: Decompress<Steps>,
    bytes: u64,
    bytes_max: u64,
    pause_max: Duration,
}

impl FileBody {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// `body_too_large`, `request_timeout`, `malformed_body` when the body broke off or is not what its encoding says.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        // What is there already must not keep the worker from others for as long as it lasts.
        tokio::task::coop::consume_budget().await;
        let next = tokio::time::timeout(self.pause_max, self.payload.next()).await;
        let next = next.map_err(|_| Refusal::new(Code::RequestTimeout).detail("the file stopped coming"))?;
        let Some(piece) = next else { return Ok(None) };
        let piece =
            piece.map_err(|error| Refusal::new(Code::MalformedBody).detail(format!("the body broke off: {error}")))?;
        self.bytes += piece.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        Ok(Some(piece))
    }
}

impl FromRequest for FileBody {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let settings = &request.app_data::<Data<Shell>>().expect("configure sets the shell").settings;
        let (bytes_max, pause_max) = (settings.upload_bytes_max, settings.body_timeout);
        ready(check(request.headers(), bytes_max).map_err(ApiError::from).map(|()| {
            let is_packed = request.headers().contains_key(header::CONTENT_ENCODING);
            let steps = if is_packed { steps(payload.take()) } else { payload.take().boxed_local() };
            let payload = Decompress::from_headers(steps, request.headers());
            Self { payload, bytes: 0, bytes_max, pause_max }
        }))
    }
}

/// Either of two bodies, by the media type: a file that is being sent, or JSON.
pub enum FileOrJson<T> {
    File(FileBody),
    Json(T),
}

impl<T: DeserializeOwned + 'static> FromRequest for FileOrJson<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
        if essence.trim().eq_ignore_ascii_case("application/json") {
            let json = Json::<T>::from_request(request, payload);
            return Box::pin(async move { Ok(Self::Json(json.await?.0)) });
        }
        let file = FileBody::from_request(request, payload);
        Box::pin(async move { Ok(Self::File(file.await?)) })
    }
}

/// The same bytes in small pieces.
fn steps(payload: Payload) -> Steps {
    let cut = |piece: Result<Bytes, PayloadError>| {
        let (mut bytes, mut error) = piece.map_or_else(|error| (Bytes::new(), Some(error)), |bytes| (bytes, None));
        stream::iter(std::iter::from_fn(move || {
            let step = bytes.split_to(bytes.len().min(STEP_BYTES));
            if step.is_empty() { error.take().map(Err) } else { Some(Ok(step)) }
        }))
    };
    payload.flat_map(cut).boxed_local()
}

fn check(headers: &HeaderMap, bytes_max: u64) -> Result<(), Refusal> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let encoding = text(header::CONTENT_ENCODING);
    if essence != "text/csv" || !matches!(encoding, "" | "identity" | "gzip") {
        return Err(Refusal::new(Code::UnsupportedMediaType)
            .detail("send content-type: text/csv, plain or with content-encoding: gzip"));
    }
    if text(header::CONTENT_LENGTH).parse().is_ok_and(|bytes: u64| bytes > bytes_max) {
        return Err(too_large(bytes_max));
    }
    Ok(())
}

fn too_large(bytes_max: u64) -> Refusal {
    Refusal::new(Code::BodyTooLarge).detail(format!("at most {bytes_max} bytes")).with("bytes_max", bytes_max)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use actix_web::test::TestRequest;
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    #[actix_web::test]
    async fn a_file_made_to_burst_comes_in_small_pieces() {
        let zeros = vec![0; 32 << 20];
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&zeros).unwrap();
        let packed = Bytes::from(packer.finish().unwrap());
        assert!(packed.len() < 40_000, "{}", packed.len());
        let whole: Steps = stream::iter([Ok(packed)]).boxed_local();
        let request = TestRequest::post().insert_header((header::CONTENT_ENCODING, "gzip")).to_http_request();
        let payload = Decompress::from_headers(steps(Payload::Stream { payload: whole }), request.headers());
        let (pause_max, bytes_max) = (Duration::from_secs(10), 20 << 20);
        let mut body = FileBody { payload, bytes: 0, bytes_max, pause_max };
        let refused = loop {
            match body.next().await {
                Ok(piece) => assert!(piece.expect("it is cut off before its end").len() <= STEP_BYTES * 1_032 + 32_768),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(refused.code, Code::BodyTooLarge);
        assert!(body.bytes < bytes_max + (1 << 20), "{} bytes were unpacked", body.bytes);
    }

    #[test]
    fn a_file_is_csv_and_plain_or_packed() {
        for (content_type, encoding, length, code) in [
            ("text/csv", "", "100", None),
            ("Text/CSV; charset=utf-8", "gzip", "", None),
            ("text/csv", "br", "", Some(Code::UnsupportedMediaType)),
            ("application/json", "", "", Some(Code::UnsupportedMediaType)),
            ("", "", "", Some(Code::UnsupportedMediaType)),
            ("text/csv", "", "101", Some(Code::BodyTooLarge)),
        ] {
            let request = TestRequest::post()
                .insert_header((header::CONTENT_TYPE, content_type))
                .insert_header((header::CONTENT_ENCODING, encoding))
                .insert_header((header::CONTENT_LENGTH, length))
                .to_http_request();
            let refused = check(request.headers(), 100).err().map(|refusal| refusal.code);
            assert_eq!(refused, code, "{content_type} {encoding} {length}");
        }
    }
}
