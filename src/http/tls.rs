use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::read_file;

/// PEM files; without an authority the system's are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    /// A certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why no TLS is possible.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the system has no certificates to trust: {0}")]
    NoAuthority(std::io::Error),
    /// Names the file.
    #[error("{0}")]
    File(String),
}

impl From<String> for TlsError {
    fn from(text: String) -> Self {
        Self::File(text)
    }
}

/// What a TLS connection trusts and shows; without files there is to be none.
pub(super) async fn config(files: Option<TlsFiles>) -> Result<ClientConfig, TlsError> {
    let read = tokio::task::spawn_blocking(move || config_of(files.as_ref()));
    read.await.unwrap_or_else(|error| Err(error.to_string().into()))
}

fn config_of(files: Option<&TlsFiles>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(TlsFiles { ca, identity }) = files else {
        return Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    let config = match ca {
        Some(ca) => config.with_root_certificates(roots(ca)?),
        None => config.with_native_roots().map_err(TlsError::NoAuthority)?,
    };
    let Some((cert, key)) = identity else { return Ok(config.with_no_client_auth()) };
    let own = PrivateKeyDer::from_pem_slice(&read_file(key)?)
        .map_err(|error| format!("{} has no key in PEM form: {error}", key.display()))?;
    Ok(config.with_client_auth_cert(certificates(cert)?, own).map_err(|error| {
        format!("{} and {} do not go together: {error}", cert.display(), key.display())
    })?)
}

fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&read_file(path)?).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{} has no certificate in PEM form", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
