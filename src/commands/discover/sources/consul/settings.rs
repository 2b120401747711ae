use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use hyper::Uri;

use crate::config::{Flags, Kind, Reader, Secret, choice_setting, from_str_setting, named};

/// How Consul is reached and what it is asked for. What is not set is as in the variables that
/// Consul's own programs read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsulOptions {
    pub address: Option<ConsulAddress>,
    pub token: TokenOptions,
    /// The one of the agent that is asked, if not set.
    pub datacenter: Option<String>,
    pub namespace: Option<String>,
    pub partition: Option<String>,
    /// An instance has to have all of them.
    pub tags: Vec<String>,
    pub health: Health,
    /// PEM files for https.
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// What says who asks: one of the two, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenOptions {
    pub text: Option<Secret>,
    /// Read again for each question.
    pub file: Option<PathBuf>,
}

/// Which instances serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Health {
    /// All of their checks pass.
    #[default]
    Passing,
    /// None of their checks is critical.
    Warning,
}

choice_setting!(Health);

impl ConsulOptions {
    /// Reads what is set under a path; what is not is as in `default`.
    pub fn read(reader: &mut Reader, base: &str, default: &Self) -> Self {
        let default = default.clone();
        let path = |name: &str| format!("{base}.consul-{name}");
        Self {
            address: reader.find(&path("address")).or(default.address),
            token: TokenOptions::read(reader, base).unwrap_or(default.token),
            datacenter: reader.find(&path("datacenter")).or(default.datacenter),
            namespace: reader.find(&path("namespace")).or(default.namespace),
            partition: reader.find(&path("partition")).or(default.partition),
            tags: reader.find(&path("tags")).unwrap_or(default.tags),
            health: reader.get(&path("health"), default.health),
            ca: reader.find(&path("ca")).or(default.ca),
            cert: reader.find(&path("cert")).or(default.cert),
            key: reader.find(&path("key")).or(default.key),
        }
    }
}

impl TokenOptions {
    fn read(reader: &mut Reader, base: &str) -> Option<Self> {
        let text = reader.find(&format!("{base}.consul-token"));
        let file = reader.find(&format!("{base}.consul-token-file"));
        (text.is_some() || file.is_some()).then_some(Self { text, file })
    }
}

/// Where Consul's HTTP API is: `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT` for http.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulAddress(String);

impl ConsulAddress {
    /// Where an agent of this host listens.
    pub(super) fn local() -> Self {
        Self("http://127.0.0.1:8500".into())
    }

    /// Takes one without a scheme for https.
    pub(super) fn parse_secure(text: &str) -> Result<Self, String> {
        if text.contains("://") { text.parse() } else { format!("https://{text}").parse() }
    }

    /// The start of every URL, without a `/` at its end.
    pub(super) fn base(&self) -> &str {
        &self.0
    }

    pub(super) fn is_secure(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl FromStr for ConsulAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            Err(format!("{why}: use http://HOST:PORT, https://HOST:PORT, or HOST:PORT for http"))
        };
        // Whatever stands before an @ may be a password.
        if text.contains('@') {
            return refuse("an address of Consul has no user");
        }
        let (scheme, place) = text.split_once("://").unwrap_or(("http", text));
        let url = format!("{}://{}", scheme.to_ascii_lowercase(), place.trim_end_matches('/'));
        match url.parse::<Uri>() {
            Ok(uri) if is_plain(&uri) && !url.contains('#') => match uri.port_u16() {
                None if !text.contains("://") => refuse(&format!("{text:?} has no port")),
                _ => Ok(Self(url)),
            },
            _ => refuse(&format!("{text:?} is not an address of Consul")),
        }
    }
}

/// http or https, a host, nothing after the path, and a port that is one if there is any.
fn is_plain(uri: &Uri) -> bool {
    let Some(authority) = uri.authority() else { return false };
    let (host, port) = (authority.host(), authority.port_u16());
    matches!(uri.scheme_str(), Some("http" | "https"))
        && !host.is_empty()
        && (port.is_some() || authority.as_str() == host)
        && uri.query().is_none()
}

impl fmt::Display for ConsulAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

from_str_setting! { ConsulAddress: [Kind::Text]; }

/// The flags for them; none for the token, since every user of the host can read arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct ConsulFlags {
    /// Where Consul's HTTP API is [default: $CONSUL_HTTP_ADDR, or http://127.0.0.1:8500]
    #[arg(long, value_name = "URL", help_heading = "Sources")]
    consul_address: Option<String>,

    /// The file with Consul's ACL token [default: $CONSUL_HTTP_TOKEN_FILE, or $CONSUL_HTTP_TOKEN as the token itself]
    #[arg(long, value_name = "PATH", help_heading = "Sources")]
    consul_token_file: Option<String>,

    /// The datacenter to look in [default: the Consul agent's]
    #[arg(long, value_name = "NAME", help_heading = "Sources")]
    consul_datacenter: Option<String>,

    /// The namespace to look in, in Consul Enterprise [default: $CONSUL_NAMESPACE, or the token's]
    #[arg(long, value_name = "NAME", help_heading = "Sources")]
    consul_namespace: Option<String>,

    /// The admin partition to look in, in Consul Enterprise [default: $CONSUL_PARTITION, or the agent's]
    #[arg(long, value_name = "NAME", help_heading = "Sources")]
    consul_partition: Option<String>,

    /// Only instances that have all of these tags
    #[arg(long, value_name = "TAG,…", help_heading = "Sources")]
    consul_tags: Option<String>,

    /// Which instances serve: passing, or warning for those with a warning, too [default: passing]
    #[arg(long, value_name = "HEALTH", help_heading = "Sources")]
    consul_health: Option<String>,

    /// The authority of Consul's certificate, as PEM [default: $CONSUL_CACERT, or the system's]
    #[arg(long, value_name = "PATH", help_heading = "Sources")]
    consul_ca: Option<String>,

    /// The certificate to show to Consul, as PEM [default: $CONSUL_CLIENT_CERT]
    #[arg(long, value_name = "PATH", help_heading = "Sources")]
    consul_cert: Option<String>,

    /// The key of that certificate, as PEM [default: $CONSUL_CLIENT_KEY]
    #[arg(long, value_name = "PATH", help_heading = "Sources")]
    consul_key: Option<String>,
}

impl ConsulFlags {
    /// As settings under a path.
    pub fn set(&self, base: &str, flags: Flags) -> Flags {
        let Self {
            consul_address,
            consul_token_file,
            consul_datacenter,
            consul_namespace,
            consul_partition,
            consul_tags,
            consul_health,
            consul_ca,
            consul_cert,
            consul_key,
        } = self;
        flags.all(
            base,
            named![
                consul_address,
                consul_token_file,
                consul_datacenter,
                consul_namespace,
                consul_partition,
                consul_tags,
                consul_health,
                consul_ca,
                consul_cert,
                consul_key
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_scheme_is_http() {
        for (text, means) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("[::1]:8500", "http://[::1]:8500"),
            ("HTTPS://consul.example:8501/", "https://consul.example:8501"),
            ("http://consul.example", "http://consul.example"),
            ("https://edge.example/consul/", "https://edge.example/consul"),
        ] {
            assert_eq!(text.parse::<ConsulAddress>().unwrap().base(), means);
        }
        let secure = ConsulAddress::parse_secure("h:1").unwrap();
        assert!(secure.is_secure() && secure.base() == "https://h:1");
        assert!(!ConsulAddress::parse_secure("http://h:1").unwrap().is_secure());
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_remedy() {
        for (bad, says) in [
            ("", "is not an address"),
            ("consul.example", "has no port"),
            ("unix:///run/consul.sock", "is not an address"),
            ("ftp://h:1", "is not an address"),
            ("http://", "is not an address"),
            ("http://:8500", "is not an address"),
            ("http://h:1/?dc=x", "is not an address"),
            ("http://h:1/#x", "is not an address"),
            ("http://h:99999", "is not an address"),
            ("h:http", "is not an address"),
            ("http://h h:1", "is not an address"),
        ] {
            let error = bad.parse::<ConsulAddress>().unwrap_err();
            assert!(
                error.contains(says) && error.contains("https://HOST:PORT"),
                "{bad:?}: {error}"
            );
        }
        let error = "http://me:secret@h:1".parse::<ConsulAddress>().unwrap_err();
        assert!(error.contains("has no user") && !error.contains("secret"), "{error}");
    }

    fn read(text: &str) -> Result<ConsulOptions, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lbctl.toml");
        std::fs::write(&file, text).unwrap();
        let mut reader = Reader::load(Some(&file), [], Flags::new()).unwrap();
        let common = ConsulOptions::read(&mut reader, "discover", &ConsulOptions::default());
        let own = ConsulOptions::read(&mut reader, "discover.own", &common);
        reader.finish().map(|_| own).map_err(|error| error.to_string())
    }

    #[test]
    fn a_backend_has_its_own_value_or_the_common_one() {
        let own = read(
            "[discover]\nconsul-token = 'secret'\nconsul-tags = ['a', 'b,c']\nconsul-datacenter = 'one'\n\
             [discover.own]\nconsul-token-file = '/token'\nconsul-health = 'warning'\n",
        )
        .unwrap();
        let file = TokenOptions { file: Some("/token".into()), ..TokenOptions::default() };
        assert_eq!(own.token, file);
        assert_eq!((&own.tags[..], own.health), (&["a".into(), "b,c".into()][..], Health::Warning));
        assert_eq!(own.datacenter.as_deref(), Some("one"));
        assert!(read("[discover]\nconsul-health = 'critical'\n").unwrap_err().contains("warning"));
    }

    #[test]
    fn a_token_is_not_in_the_debug_text() {
        let own = read("[discover]\nconsul-token = 'secret'\n").unwrap();
        assert!(!format!("{own:?}").contains("secret"));
    }
}
