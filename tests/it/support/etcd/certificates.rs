use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

/// PEM files of one authority, made for one test.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub ca: PathBuf,
    pub server: PathBuf,
    pub server_key: PathBuf,
    pub client: PathBuf,
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes an authority, a server certificate for loopback and a client certificate.
    pub fn make(dir: &Path) -> Self {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let authority = authority();
        let (server, server_key) = issue(&authority, &["127.0.0.1", "::1", "localhost"]);
        let (client, client_key) = issue(&authority, &["lbctl"]);
        Self {
            ca: write("ca.pem", authority.pem()),
            server: write("server.pem", server),
            server_key: write("server.key", server_key),
            client: write("client.pem", client),
            client_key: write("client.key", client_key),
        }
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for these names, with its key. Both usages each: etcd's own gateway is a client
/// with the server's certificate.
fn issue(authority: &CertifiedIssuer<'_, KeyPair>, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    // etcd takes a common name for the user who asks, before any password.
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}
