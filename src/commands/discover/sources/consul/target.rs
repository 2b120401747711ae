use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::settings::{ConsulAddress, ConsulOptions, Health, TokenOptions};
use crate::config::Secret;
use crate::http::TlsFiles;
use crate::model::Label;

/// Which Consul is asked, as whom, and for what: the options, and the variables behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    address: ConsulAddress,
    pub token: Option<Token>,
    pub tls: Option<TlsFiles>,
    pub wanted: Wanted,
    /// What every question has behind its `?`.
    query: Vec<String>,
}

/// What says who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Text(Secret),
    File(PathBuf),
}

/// Which instances are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub health: Health,
    pub tags: Vec<String>,
}

impl Target {
    /// `variable` gives what the environment has under a name. The names, and what wins over what,
    /// are those of Consul's own programs (<https://developer.hashicorp.com/consul/commands>).
    pub fn resolve(
        options: &ConsulOptions,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let address = match &options.address {
            Some(address) => address.clone(),
            None => address_of(&variable)?,
        };
        Ok(Self {
            token: Token::resolve(&options.token, &variable)?,
            tls: tls_files(options, &address, &variable)?,
            wanted: Wanted { health: options.health, tags: options.tags.clone() },
            query: query(options, &variable),
            address,
        })
    }

    /// Where Consul is, for people.
    pub fn place(&self) -> &str {
        self.address.base()
    }

    /// The URL of a question for the instances of a service: for all of them now, or for those that
    /// there are once they have changed since an index, or a time is over.
    pub fn url(&self, service: &Label, since: Option<(u64, Duration)>) -> Result<Uri, String> {
        let mut query = self.query.clone();
        if let Some((index, wait)) = since {
            query.extend([format!("index={index}"), format!("wait={}ms", wait.as_millis())]);
        }
        let (base, service, query) = (self.place(), encoded(service.as_str()), query.join("&"));
        let url = format!("{base}/v1/health/service/{service}?{query}");
        url.parse().map_err(|error| format!("{base}: no URL can be made of the settings: {error}"))
    }
}

fn address_of(variable: &impl Fn(&str) -> Option<String>) -> Result<ConsulAddress, String> {
    const NAME: &str = "CONSUL_HTTP_ADDR";
    let secure = variable("CONSUL_HTTP_SSL")
        .is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "1" | "t" | "true"));
    let address = match variable(NAME) {
        Some(text) if secure => ConsulAddress::parse_secure(&text),
        Some(text) => text.parse(),
        None if secure => ConsulAddress::parse_secure("127.0.0.1:8500"),
        None => Ok(ConsulAddress::local()),
    };
    address.map_err(|error| format!("{NAME}: {error}; or set consul-address"))
}

impl Token {
    fn resolve(
        options: &TokenOptions,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        Ok(match (&options.text, &options.file) {
            (Some(_), Some(_)) => {
                return Err(
                    "there are a consul-token and a consul-token-file: leave one out".into()
                );
            }
            (Some(text), None) => Some(Self::Text(text.clone())),
            (None, Some(file)) => Some(Self::File(file.clone())),
            (None, None) => match variable("CONSUL_HTTP_TOKEN_FILE") {
                Some(file) => Some(Self::File(file.into())),
                None => variable("CONSUL_HTTP_TOKEN").map(|text| Self::Text(Secret::new(text))),
            },
        })
    }
}

fn tls_files(
    options: &ConsulOptions,
    address: &ConsulAddress,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<TlsFiles>, String> {
    let ConsulOptions { ca, cert, key, .. } = options;
    if !address.is_secure() {
        // Variables that Consul's own programs need may be there all the same.
        return match [ca, cert, key].iter().any(|file| file.is_some()) {
            true => Err(format!(
                "consul-ca, consul-cert and consul-key are for https, and {address} is not: \
                     write https:// before it, or leave them out"
            )),
            false => Ok(None),
        };
    }
    let file = |own: &Option<PathBuf>, name| own.clone().or_else(|| variable(name).map(Into::into));
    let (cert, key) = (file(cert, "CONSUL_CLIENT_CERT"), file(key, "CONSUL_CLIENT_KEY"));
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err("a consul-cert needs its consul-key".into()),
        (None, Some(_)) => return Err("a consul-key needs its consul-cert".into()),
    };
    Ok(Some(TlsFiles { ca: file(ca, "CONSUL_CACERT"), identity }))
}

fn query(options: &ConsulOptions, variable: &impl Fn(&str) -> Option<String>) -> Vec<String> {
    let ConsulOptions { datacenter, namespace, partition, tags, health, .. } = options;
    let or = |own: &Option<String>, name: &str| own.clone().or_else(|| variable(name));
    let named = [
        ("passing", (*health == Health::Passing).then(|| "1".to_owned())),
        ("dc", datacenter.clone()),
        ("ns", or(namespace, "CONSUL_NAMESPACE")),
        ("partition", or(partition, "CONSUL_PARTITION")),
    ];
    let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let all = named.chain(tags.iter().map(|tag| ("tag", tag.clone())));
    all.map(|(name, value)| format!("{name}={}", encoded(&value))).collect()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(options: &ConsulOptions, set: &[(&str, &str)]) -> Result<Target, String> {
        let value = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Target::resolve(options, value)
    }

    #[test]
    fn without_options_consuls_own_variables_hold() {
        let target = resolve(&ConsulOptions::default(), &[("CONSUL_HTTP_ADDR", "")]).unwrap();
        assert_eq!((target.place(), &target.tls), ("http://127.0.0.1:8500", &None));
        let set = [
            ("CONSUL_HTTP_ADDR", "consul.example:8501"),
            ("CONSUL_HTTP_SSL", "true"),
            ("CONSUL_HTTP_TOKEN", "secret"),
            ("CONSUL_CACERT", "/ca.pem"),
            ("CONSUL_NAMESPACE", "team"),
            ("CONSUL_PARTITION", "part"),
        ];
        let target = resolve(&ConsulOptions::default(), &set).unwrap();
        assert_eq!(target.place(), "https://consul.example:8501");
        assert_eq!(target.token, Some(Token::Text(Secret::new("secret"))));
        assert_eq!(target.tls.as_ref().unwrap().ca, Some("/ca.pem".into()));
        assert_eq!(target.query, ["passing=1", "ns=team", "partition=part"]);
        assert!(!format!("{target:?}").contains("secret"));
        let set = [("CONSUL_HTTP_TOKEN", "secret"), ("CONSUL_HTTP_TOKEN_FILE", "/token")];
        let target = resolve(&ConsulOptions::default(), &set).unwrap();
        assert_eq!(target.token, Some(Token::File("/token".into())));
    }

    #[test]
    fn options_win_over_variables() {
        let options = ConsulOptions {
            address: Some("h:1".parse().unwrap()),
            token: TokenOptions { file: Some("/mine".into()), ..TokenOptions::default() },
            namespace: Some("mine".into()),
            health: Health::Warning,
            ..ConsulOptions::default()
        };
        let set = [
            ("CONSUL_HTTP_ADDR", "unix:///x"),
            ("CONSUL_HTTP_SSL", "true"),
            ("CONSUL_HTTP_TOKEN", "theirs"),
            ("CONSUL_NAMESPACE", "theirs"),
            ("CONSUL_CACERT", "/ca.pem"),
        ];
        let target = resolve(&options, &set).unwrap();
        assert_eq!(target.place(), "http://h:1");
        assert_eq!(target.token, Some(Token::File("/mine".into())));
        assert_eq!(target.query, ["ns=mine"]);
    }

    #[test]
    fn nothing_ends_its_part_of_the_url() {
        let options = ConsulOptions {
            address: Some("https://h/consul".parse().unwrap()),
            datacenter: Some("a&b=c #?%".into()),
            tags: vec!["v=1".into(), "\u{e4}/\n".into()],
            ..ConsulOptions::default()
        };
        let target = resolve(&options, &[]).unwrap();
        let since = Some((7, Duration::from_millis(1500)));
        let url = target.url(&"a:b".parse().unwrap(), since).unwrap();
        assert_eq!(
            url.to_string(),
            "https://h/consul/v1/health/service/a%3Ab?passing=1&dc=a%26b%3Dc%20%23%3F%25\
             &tag=v%3D1&tag=%C3%A4%2F%0A&index=7&wait=1500ms"
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_remedy() {
        let (http, https) = (Some("h:1".parse().unwrap()), Some("https://h:1".parse().unwrap()));
        let file = Some(PathBuf::from("/x.pem"));
        let none = ConsulOptions::default();
        let both = TokenOptions { text: Some(Secret::new("secret")), file: file.clone() };
        for (options, set, says) in [
            (
                ConsulOptions { address: http, ca: file.clone(), ..none.clone() },
                ("", ""),
                "write https://",
            ),
            (
                ConsulOptions { address: https.clone(), cert: file.clone(), ..none.clone() },
                ("", ""),
                "needs its consul-key",
            ),
            (
                ConsulOptions { address: https, key: file, ..none.clone() },
                ("", ""),
                "needs its consul-cert",
            ),
            (ConsulOptions { token: both, ..none.clone() }, ("", ""), "leave one out"),
            (none, ("CONSUL_HTTP_ADDR", "unix:///x"), "CONSUL_HTTP_ADDR: \"unix:///x\" is not"),
        ] {
            let error = resolve(&options, &[set]).unwrap_err();
            assert!(error.contains(says) && !error.contains("secret"), "{says}: {error}");
        }
    }
}
