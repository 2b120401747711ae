use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::Prefix;
use super::url_text::{Query, decode, encode};
use crate::aws;
use crate::config::{self, Secret};
use crate::model::{format_duration, parse_duration};

/// The prefix of all keys where a URL names none.
const DEFAULT_PREFIX: &str = "lbctl";

/// The port of an etcd endpoint that names none.
const ETCD_PORT: u16 = 2379;

/// How often a watch of a DynamoDB table looks, where a URL does not say it.
const DEFAULT_POLL: Duration = Duration::from_secs(1);

/// Looking more often costs more than it is worth.
const LEAST_POLL: Duration = Duration::from_millis(10);

/// Which store, from its URL. Its `Display` is a URL again, with a password masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `memory:`, gone with the process.
    Memory,
    /// `sqlite:PATH[?prefix=/PREFIX]`.
    Sqlite(SqliteUrl),
    /// `etcd://[USER[:PASSWORD]@]HOST[:PORT],…[/PREFIX][?OPTION=VALUE&…]`; `etcds://` for TLS.
    Etcd(EtcdUrl),
    /// `dynamodb://TABLE[/PREFIX][?region=REGION&endpoint=URL&poll=TIME]`.
    Dynamo(DynamoUrl),
}

/// A database file on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteUrl {
    pub path: PathBuf,
    pub prefix: Prefix,
}

/// A DynamoDB table and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamoUrl {
    pub table: String,
    pub prefix: Prefix,
    /// `region=` and `endpoint=`, where the environment does not say them.
    pub place: aws::Place,
    /// `poll=`: how often a watch looks whether something has changed; after a long quiet it looks
    /// more rarely.
    pub poll: Duration,
}

/// An etcd cluster and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUrl {
    /// `HOST:PORT` each, IPv6 hosts in brackets; at least one.
    pub endpoints: Vec<String>,
    /// `etcds://`.
    pub tls: bool,
    pub prefix: Prefix,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// `password-file=`: a file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// `ca=`: the authority to trust instead of the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// `cert=`: the client's certificate, in PEM; goes with `key`.
    pub cert: Option<PathBuf>,
    /// `key=`: the client certificate's key, in PEM.
    pub key: Option<PathBuf>,
}

/// A text that is no store URL: what is wrong with it, and a right one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a store URL: {problem}; write it like {example}")]
pub struct StoreUrlError {
    problem: String,
    example: &'static str,
}

impl StoreUrl {
    /// Whether a password stands in it.
    pub(super) fn has_password(&self) -> bool {
        matches!(self, Self::Etcd(etcd) if etcd.password.is_some())
    }

    /// The embedded store where no URL is given: `/var/lib/lbctl/lbctl.db` for root, else under
    /// `$XDG_STATE_HOME` or `~/.local/state`. `None` for a user without a home.
    pub fn default_for_user() -> Option<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let folder = if rustix::process::geteuid().is_root() {
            PathBuf::from("/var/lib")
        } else {
            absolute("XDG_STATE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?
        };
        Some(Self::sqlite(folder.join("lbctl/lbctl.db")))
    }

    /// A database file, with the default prefix.
    pub fn sqlite(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self::Sqlite(SqliteUrl { path, prefix: Prefix::of([DEFAULT_PREFIX]) })
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        match scheme {
            "memory" if matches!(rest, "" | "//") => Ok(Self::Memory),
            "sqlite" => sqlite(rest).map(Self::Sqlite).map_err(|p| wrong(p, SQLITE_EXAMPLE)),
            "etcd" | "etcds" => {
                etcd(rest, scheme == "etcds").map(Self::Etcd).map_err(|p| wrong(p, ETCD_EXAMPLE))
            }
            "dynamodb" => dynamo(rest).map(Self::Dynamo).map_err(|p| wrong(p, DYNAMO_EXAMPLE)),
            // The text may hold a password, so only its scheme is said again.
            "" => Err(wrong("it has no scheme".into(), ANY_EXAMPLE)),
            _ => Err(wrong(format!("there is no store {scheme:?}"), ANY_EXAMPLE)),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(url) => url.fmt(f),
            Self::Etcd(url) => url.fmt(f),
            Self::Dynamo(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for SqliteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, prefix } = self;
        let path = path.display().to_string();
        // One that begins with two slashes would lose them.
        let slashes = if path.starts_with("//") { "//" } else { "" };
        write!(f, "sqlite:{slashes}{path}")?;
        if prefix.as_str() != DEFAULT_PREFIX {
            write!(f, "?prefix=/{}", encode(prefix.as_str()))?;
        }
        Ok(())
    }
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, tls, prefix, user, password, password_file, ca, cert, key } = self;
        f.write_str(if *tls { "etcds://" } else { "etcd://" })?;
        if let Some(user) = user {
            f.write_str(&encode(user))?;
            f.write_str(if password.is_some() { ":***@" } else { "@" })?;
        }
        write!(f, "{}/{}", endpoints.join(","), encode(prefix.as_str()))?;
        let files = [("ca", ca), ("cert", cert), ("key", key), ("password-file", password_file)];
        let given = files.iter().filter_map(|(name, file)| Some((name, file.as_ref()?)));
        for (index, (name, file)) in given.enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", encode(&file.to_string_lossy()))?;
        }
        Ok(())
    }
}

impl fmt::Display for DynamoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, prefix, place: aws::Place { region, endpoint }, poll } = self;
        write!(f, "dynamodb://{table}/{}", encode(prefix.as_str()))?;
        let poll = (*poll != DEFAULT_POLL).then(|| format_duration(*poll));
        let options = [("region", region), ("endpoint", endpoint), ("poll", &poll)];
        let given = options.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (index, (name, value)) in given.enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", encode(value))?;
        }
        Ok(())
    }
}

impl config::Setting for StoreUrl {
    const KINDS: &'static [config::Kind] = &[config::Kind::Text];

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: StoreUrlError| error.to_string())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn identity(&self) -> String {
        let password = match self {
            Self::Etcd(etcd) => etcd.password.as_ref(),
            Self::Memory | Self::Sqlite(_) | Self::Dynamo(_) => None,
        };
        format!("{self} {}", password.map_or("", Secret::reveal))
    }
}

const SQLITE_EXAMPLE: &str = "sqlite:/var/lib/lbctl/lbctl.db";
const ETCD_EXAMPLE: &str = "etcd://10.0.0.1:2379,10.0.0.2:2379/lbctl";
const DYNAMO_EXAMPLE: &str = "dynamodb://lbctl?region=eu-west-1";
const ANY_EXAMPLE: &str = "sqlite:/var/lib/lbctl/lbctl.db, etcd://10.0.0.1:2379/lbctl (etcds://… for \
                           TLS) or dynamodb://lbctl?region=eu-west-1";

fn wrong(problem: String, example: &'static str) -> StoreUrlError {
    StoreUrlError { problem, example }
}

fn sqlite(rest: &str) -> Result<SqliteUrl, String> {
    let (path, mut query) = Query::split(rest)?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err("the path of the database file is missing".into());
    }
    let prefix = match query.take("prefix") {
        Some(text) => parse_prefix(&text)?,
        None => Prefix::of([DEFAULT_PREFIX]),
    };
    query.finish(&["prefix"])?;
    Ok(SqliteUrl { path: path.into(), prefix })
}

fn dynamo(rest: &str) -> Result<DynamoUrl, String> {
    let rest = rest.strip_prefix("//").ok_or("`//` is missing behind the scheme")?;
    let (place, mut query) = Query::split(rest)?;
    let (table, prefix) = match place.split_once('/') {
        Some((table, prefix)) => (table, parse_prefix(&decode(prefix)?)?),
        None => (place, Prefix::of([DEFAULT_PREFIX])),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !(3..=255).contains(&table.len()) || !table.chars().all(allowed) {
        return Err(format!("{table:?} is not a table (3 to 255 letters, digits, _ - or .)"));
    }
    let mut option = |name| query.take(name).filter(|value| !value.is_empty());
    let (region, endpoint) = (option("region"), option("endpoint"));
    let poll = option("poll").map(|text| parse_duration(&text)).transpose()?;
    query.finish(&["region", "endpoint", "poll"])?;
    check_dynamo(region.as_deref(), endpoint.as_deref())?;
    let poll = poll.unwrap_or(DEFAULT_POLL);
    if poll < LEAST_POLL {
        return Err(format!("poll is at least {}", format_duration(LEAST_POLL)));
    }
    let table = table.to_owned();
    Ok(DynamoUrl { table, prefix, place: aws::Place { region, endpoint }, poll })
}

fn check_dynamo(region: Option<&str>, endpoint: Option<&str>) -> Result<(), String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if let Some(region) = region.filter(|region| !region.chars().all(sound)) {
        return Err(format!("{region:?} is not a region"));
    }
    let is_web = |url: &str| {
        url.strip_prefix("http").is_some_and(|r| r.starts_with("://") || r.starts_with("s://"))
            && url.parse::<hyper::Uri>().is_ok()
    };
    match endpoint.filter(|endpoint| !is_web(endpoint)) {
        Some(endpoint) => Err(format!("{endpoint:?} is not an endpoint: begin with https://")),
        None => Ok(()),
    }
}

fn etcd(rest: &str, tls: bool) -> Result<EtcdUrl, String> {
    let rest = rest.strip_prefix("//").ok_or("`//` is missing behind the scheme")?;
    // Cut apart there, the rest of a password would be taken for an option or a port, and be said.
    if rest.split_once('?').is_some_and(|(_, options)| options.contains('@')) {
        return Err(
            "a `?` in front of an `@`: write it as %3F in a user or password, and the `@` \
                    as %40 in an option"
                .into(),
        );
    }
    let (place, mut query) = Query::split(rest)?;
    let (login, place) = match place.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, place),
    };
    let (hosts, prefix) = match place.split_once('/') {
        Some((hosts, prefix)) => (hosts, parse_prefix(&decode(prefix)?)?),
        None => (place, Prefix::of([DEFAULT_PREFIX])),
    };
    let (user, password) = match login.map(|l| l.split_once(':').unwrap_or((l, ""))) {
        Some((user, "")) => (Some(decode(user)?), None),
        Some((user, password)) => (Some(decode(user)?), Some(Secret::new(decode(password)?))),
        None => (None, None),
    };
    let mut file = |name| query.take(name).map(PathBuf::from);
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    let password_file = file("password-file");
    let user = user.or_else(|| query.take("user")).filter(|user| !user.is_empty());
    query.finish(&["ca", "cert", "key", "password-file", "user"])?;
    let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<String>, String>>()?;
    let url = EtcdUrl { endpoints, tls, prefix, user, password, password_file, ca, cert, key };
    check_etcd(&url)?;
    Ok(url)
}

/// What parses and yet makes no sense.
fn check_etcd(url: &EtcdUrl) -> Result<(), String> {
    let files = [&url.ca, &url.cert, &url.key];
    if !url.tls && files.iter().any(|f| f.is_some()) {
        return Err("ca, cert and key need TLS: begin with etcds://".into());
    }
    if url.cert.is_some() != url.key.is_some() {
        return Err("cert and key go together".into());
    }
    if url.user.is_none() && (url.password.is_some() || url.password_file.is_some()) {
        return Err("a password needs a user: put USER@ in front of the first host".into());
    }
    if url.password.is_some() && url.password_file.is_some() {
        return Err("it has a password and a password-file: leave one out".into());
    }
    Ok(())
}

/// `HOST:PORT` from `HOST[:PORT]`.
fn endpoint(text: &str) -> Result<String, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        None => ETCD_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            // Not said: it may be a password whose `@HOST` was forgotten.
            .ok_or_else(|| format!("what follows {host:?} is not a port"))?,
    };
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let sound = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    };
    if !sound {
        return Err(format!("{host:?} is not a host (an IPv6 address goes in brackets)"));
    }
    Ok(format!("{host}:{port}"))
}

fn parse_prefix(text: &str) -> Result<Prefix, String> {
    text.parse().map_err(|error| format!("its prefix: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> StoreUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_url_shows_as_it_parses() {
        for text in [
            "memory:",
            "sqlite:/var/lib/lbctl/lbctl.db",
            "sqlite:a b.db?prefix=/x/y",
            "sqlite:////x.db",
            "etcd://h1:2379,h2:2380/lbctl",
            "etcds://me@[::1]:2379/p?ca=/a&cert=/c&key=/k&password-file=/p",
            "dynamodb://a_b.c-d/x/y?region=eu-west-1&endpoint=http%3A//127.0.0.1%3A8000&poll=250ms",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("sqlite:///x.db"), parse("sqlite:/x.db"));
        assert_eq!(parse("etcd://h"), parse("etcd://h:2379/lbctl/"));
        assert_eq!(parse("dynamodb://tab"), parse("dynamodb://tab/lbctl?poll=1s"));
    }

    #[test]
    fn a_password_is_decoded_and_never_shown() {
        let url = parse("etcd://root:p%40ss%3A%2f@h/x");
        let StoreUrl::Etcd(etcd) = &url else { panic!("{url:?}") };
        assert_eq!(etcd.password.as_ref().map(Secret::reveal), Some("p@ss:/"));
        assert_eq!(url.to_string(), "etcd://root:***@h:2379/x");
        assert!(!format!("{url:?}").contains("p@ss"));
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong_and_not_its_password() {
        for (text, problem) in [
            ("/var/lib/x.db", "no scheme"),
            ("redis://x", "no store \"redis\""),
            ("sqlite:", "path of the database file is missing"),
            ("sqlite:/x?prefx=/a", "unknown option prefx (there are prefix)"),
            ("sqlite:/x?prefix=a//b", "empty part"),
            ("etcd:h", "`//` is missing"),
            ("dynamodb:t", "`//` is missing"),
            ("dynamodb://ab", "is not a table"),
            ("dynamodb://a b c", "is not a table"),
            ("dynamodb://tab?region=eu_west", "is not a region"),
            ("dynamodb://tab?endpoint=localhost:8000", "https://"),
            ("dynamodb://tab?poll=1ms", "at least"),
            ("dynamodb://tab?regoin=x", "unknown option"),
            ("etcd://", "is not a host"),
            ("etcd://a,,b", "is not a host"),
            ("etcd://::1", "brackets"),
            ("etcd://h:99999", "is not a port"),
            ("etcd://h?ca=/x", "etcds://"),
            ("etcds://h?cert=/x", "go together"),
            ("etcd://h?password-file=/x", "needs a user"),
            ("etcd://u:secret@h?password-file=/x", "leave one out"),
            ("etcd://u:secret@h:no", "is not a port"),
            ("etcd://u:my?secret@h", "%3F"),
            ("etcd://u:secret?a=b@h", "%3F"),
            ("etcd://u:secret", "is not a port"),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
            assert!(error.contains("write it like "), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
