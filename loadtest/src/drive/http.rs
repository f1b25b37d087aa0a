//! One keep-alive connection to a server, as a till has it: HTTP/1.1, one request at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Uri,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{keys::Key, stop::Stop};

/// Where a server is, and how it is spoken to.
#[derive(Clone)]
pub struct Target {
    /// As it was given, without a slash at the end.
    pub url: String,
    host: String,
    port: u16,
    header: HeaderValue,
    tls: Option<TlsConnector>,
}

impl Target {
    /// # Errors
    /// When it is no URL of a server, or the certificates cannot be read.
    pub fn parse(url: &str, ca: Option<&std::path::Path>) -> anyhow::Result<Self> {
        let wrong = || format!("{url:?} is not the URL of a server, such as http://127.0.0.1:8080");
        let uri: Uri = url.parse().with_context(wrong)?;
        let (scheme, host) = (uri.scheme_str().with_context(wrong)?, uri.host().with_context(wrong)?.to_owned());
        ensure!(uri.path() == "/" || uri.path().is_empty(), "{url:?} has a path: name the server alone");
        let tls = match scheme {
            "http" => None,
            "https" => Some(connector(ca)?),
            _ => bail!(wrong()),
        };
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let authority = uri.authority().with_context(wrong)?.as_str();
        // It would stand in results and pages.
        ensure!(!authority.contains('@'), "a URL has no user or password here: keys come from --keys");
        let header = HeaderValue::from_str(authority)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { url: url.trim_end_matches('/').to_owned(), host, port, header, tls })
    }
}

fn connector(ca: Option<&std::path::Path>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
            for certificate in rustls_pemfile::certs(&mut &text[..]) {
                roots.add(certificate?)?;
            }
            ensure!(!roots.is_empty(), "{} has no certificate in it", file.display());
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    pub method: Method,
    pub path: &'a str,
    pub key: &'a Key,
    /// JSON, or nothing.
    pub body: Option<Bytes>,
    pub content_type: &'static str,
    pub more: &'a [(&'static str, String)],
}

impl<'a> Ask<'a> {
    pub fn get(path: &'a str, key: &'a Key) -> Self {
        Self { method: Method::GET, path, key, body: None, content_type: "application/json", more: &[] }
    }

    pub fn post(path: &'a str, key: &'a Key, body: impl Into<Bytes>) -> Self {
        let body = Some(body.into());
        Self { method: Method::POST, path, key, body, content_type: "application/json", more: &[] }
    }

    #[must_use]
    pub fn with(self, more: &'a [(&'static str, String)]) -> Self {
        Self { more, ..self }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub body: Bytes,
    pub location: Option<String>,
    pub timing: Timing,
}

/// The server's own account of its time, from `Server-Timing`, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    pub total_us: Option<u64>,
    pub db_us: Option<u64>,
    pub queue_us: Option<u64>,
    pub cached: bool,
}

impl Timing {
    /// Reads a header; something in front of the server may have put more into it, or sent another.
    fn read(mut self, text: &str) -> Self {
        let timing = &mut self;
        // A comma in a description only makes a part that is none of ours.
        for part in text.split(',') {
            let mut words = part.split(';').map(str::trim);
            let name = words.next().unwrap_or_default();
            let ms = words.find_map(|word| word.strip_prefix("dur=")?.parse::<f64>().ok());
            let us = ms.map(|ms| (ms * 1_000.0).round() as u64);
            match name {
                "total" => timing.total_us = us,
                "db" => timing.db_us = us,
                "queue" => timing.queue_us = us,
                "cache" => timing.cached = true,
                _ => {}
            }
        }
        self
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing was sent: no connection could be made.
    Unreachable,
    /// It was sent, and the connection ended.
    Broken,
    /// It was sent, and no answer came in time.
    Timeout,
    /// It was sent, and the load was stopped before an answer came.
    CutOff,
}

impl Lost {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "(no connection)",
            Self::Broken => "(connection lost)",
            Self::Timeout => "(timeout)",
            Self::CutOff => "(cut off)",
        }
    }
}

/// The connection of one till. It connects again when it was lost.
pub struct Connection {
    target: Target,
    timeout: Duration,
    sender: Option<SendRequest<Full<Bytes>>>,
    /// Times it was made.
    pub made: u64,
}

impl Connection {
    pub fn new(target: Target, timeout: Duration) -> Self {
        Self { target, timeout, sender: None, made: 0 }
    }

    pub fn url(&self) -> &str {
        &self.target.url
    }

    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(&mut self) -> anyhow::Result<()> {
        let Target { host, port, tls, url, .. } = &self.target;
        let stream =
            TcpStream::connect((host.as_str(), *port)).await.with_context(|| format!("{url} cannot be reached"))?;
        stream.set_nodelay(true)?;
        let sender = match tls {
            None => shake(stream).await?,
            Some(tls) => {
                let name = ServerName::try_from(host.clone())?;
                shake(tls.connect(name, stream).await.with_context(|| format!("{url} refused TLS"))?).await?
            }
        };
        self.sender = Some(sender);
        self.made += 1;
        Ok(())
    }

    /// [`Self::ask`], until nothing more is waited for.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn ask_until(&mut self, ask: Ask<'_>, stop: &Stop) -> (Instant, Result<Reply, Lost>) {
        let began = Instant::now();
        tokio::select! {
            answered = self.ask(ask) => answered,
            () = stop.cut_off() => (began, Err(Lost::CutOff)),
        }
    }

    /// Asks and waits for the whole answer. Also says when the request was handed to the connection.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn ask(&mut self, ask: Ask<'_>) -> (Instant, Result<Reply, Lost>) {
        let ready = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            self.sender = None;
            let connecting = tokio::time::timeout(self.timeout, self.connect()).await;
            if !matches!(connecting, Ok(Ok(()))) {
                return (Instant::now(), Err(Lost::Unreachable));
            }
        }
        let Some(sender) = &mut self.sender else { return (Instant::now(), Err(Lost::Unreachable)) };
        let Ok(request) = request(&self.target, ask) else { return (Instant::now(), Err(Lost::Unreachable)) };
        let sent = Instant::now();
        let answer = tokio::time::timeout(self.timeout, exchange(sender, request)).await;
        let outcome = match answer {
            Ok(Ok(reply)) => return (sent, Ok(reply)),
            Ok(Err(_)) => Lost::Broken,
            Err(_) => Lost::Timeout,
        };
        // An answer that comes late must not be taken for that of the next request.
        self.sender = None;
        (sent, Err(outcome))
    }
}

async fn shake<S>(stream: S) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its end shows at the sender.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

fn request(target: &Target, ask: Ask<'_>) -> hyper::http::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(HOST, target.header.clone())
        .header(AUTHORIZATION, ask.key.bearer.clone());
    for (name, value) in ask.more {
        request = request.header(*name, value);
    }
    if ask.body.is_some() {
        request = request.header(CONTENT_TYPE, ask.content_type);
    }
    request.body(Full::new(ask.body.unwrap_or_default()))
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<Reply, hyper::Error> {
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let timings = response.headers().get_all("server-timing").iter().filter_map(|value| value.to_str().ok());
    let timing = timings.fold(Timing::default(), Timing::read);
    let location = text("location").map(str::to_owned);
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Reply { status, body, location, timing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_account_of_its_time_is_read() {
        let read = |text| Timing::default().read(text);
        let timing = read("total;dur=1.23, db;dur=0.80;desc=\"9 statements, 7 leaves\", queue;dur=0.05");
        assert_eq!((timing.total_us, timing.db_us, timing.queue_us), (Some(1230), Some(800), Some(50)));
        assert_eq!(
            read("gw;dur=9").read("db; dur=0.80;desc=\"9 statements, 7 leaves\",queue;dur=0.05,total;dur=1.23"),
            timing
        );
        assert!(read("total;dur=0.02, cache;desc=hit").cached);
        assert_eq!(read("nonsense"), Timing::default());
    }

    #[test]
    fn a_url_names_a_server() {
        assert_eq!(Target::parse("http://127.0.0.1:8080/", None).unwrap().url, "http://127.0.0.1:8080");
        assert_eq!(Target::parse("https://tessera.example", None).unwrap().port, 443);
        for bad in ["127.0.0.1:8080", "ftp://x", "http://x/v1", "http://user:word@x", ""] {
            assert!(Target::parse(bad, None).is_err(), "{bad}");
        }
    }
}
