//! TLS by rustls: certificate and key from PEM files. HTTP/2 is offered by ALPN, which actix adds.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} holds no PEM certificate")]
    NoCertificate(PathBuf),
    #[error("{0} holds no PEM private key")]
    NoKey(PathBuf),
    #[error("the certificate and the key do not make a TLS configuration")]
    Unusable(#[from] rustls::Error),
}

/// Reads a certificate chain and its key.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let read = |path: &Path, source| TlsError::Read { path: path.to_owned(), source };
    let open = |path: &Path| File::open(path).map(BufReader::new).map_err(|source| read(path, source));
    let chain =
        rustls_pemfile::certs(&mut open(cert)?).collect::<Result<Vec<_>, _>>().map_err(|source| read(cert, source))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(cert.to_owned()));
    }
    let private = rustls_pemfile::private_key(&mut open(key)?)
        .map_err(|source| read(key, source))?
        .ok_or_else(|| TlsError::NoKey(key.to_owned()))?;
    // The provider is named, since a process may link two and rustls then refuses to choose.
    Ok(ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?)
}
