use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::target::TlsFiles;
use crate::files;

/// Tokens and certificates are far smaller.
const MAX_LEN: u64 = 1 << 20;

/// What a TLS connection trusts and shows; without files there is to be none.
pub(super) async fn tls(files: Option<TlsFiles>) -> Result<ClientConfig, String> {
    blocking(move || tls_of(files.as_ref())).await
}

/// The token in a file, without the line's end.
pub(super) async fn token(path: PathBuf) -> Result<String, String> {
    blocking(move || token_of(&path)).await
}

fn tls_of(files: Option<&TlsFiles>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let Some(TlsFiles { ca, identity }) = files else {
        return Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    let config = match ca {
        Some(ca) => config.with_root_certificates(roots(ca)?),
        None => config.with_native_roots().map_err(|error| {
            format!("the system has no certificates to trust: {error}: give consul-ca")
        })?,
    };
    let Some((cert, key)) = identity else { return Ok(config.with_no_client_auth()) };
    let own = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| format!("{} has no key in PEM form: {error}", key.display()))?;
    config.with_client_auth_cert(certificates(cert)?, own).map_err(|error| {
        format!("{} and {} do not go together: {error}", cert.display(), key.display())
    })
}

fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("{} has no certificate in PEM form", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn token_of(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(read(path)?)
        .map_err(|_| format!("the token in {} is not text", path.display()))?;
    match text.trim() {
        "" => Err(format!("{} is empty: write the token there", path.display())),
        token => Ok(token.to_owned()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path, MAX_LEN).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}
