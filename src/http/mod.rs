//! An HTTP client for the services that commands ask: over TLS where it is wanted, with bounded
//! answers, and without secrets in what it says of failures.

mod client;
mod tls;

pub use client::{Answer, Client, Failure};
pub use tls::{TlsError, TlsFiles};

use std::path::Path;

/// Tokens and certificates are far smaller.
const MAX_FILE: u64 = 1 << 20;

/// The secret in a file, such as a token, without the line's end. Blocks.
pub fn secret_of(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(read_file(path)?)
        .map_err(|_| format!("the token in {} is not text", path.display()))?;
    match text.trim() {
        "" => Err(format!("{} is empty: write the token there", path.display())),
        token => Ok(token.to_owned()),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    crate::files::read(path, MAX_FILE)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}
