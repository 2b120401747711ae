//! Where endpoints come from. A source gives the complete set it sees, or an error, never a guess.

mod asg;
mod consul;
mod dns;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod metrics;
mod options;
mod registry;
mod resolve;
mod scale;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::Answer;
use super::shared::Shared;
use crate::config::{Kind, from_str_setting};
use crate::daemon::{OwnedTask, spawn_owned};
use crate::model::{BackendName, EndpointId};
use crate::text;

pub use asg::{AsgOptions, AsgSpec, InstanceAddress};
pub use consul::{ConsulOptions, ConsulServices};
pub use dns::DnsName;
pub use options::{SourceFlags, SourceOptions};
pub use resolve::Resolve;

/// What a source can be written as.
pub const FORMS: &str =
    "registry, file:PATH, dns:NAME[:PORT], asg:NAME[,NAME…] or consul:SERVICE[,SERVICE…]";

/// Which source a backend has; its text form is one of [`FORMS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// Servers that announce themselves in the store.
    Registry,
    /// A list in a TOML, JSON or YAML file.
    File(PathBuf),
    /// Addresses of a name.
    Dns(DnsName),
    /// Instances of Auto Scaling groups.
    Asg(AsgSpec),
    /// Instances of services that a Consul knows.
    Consul(ConsulServices),
}

/// What a source needs beside its spec.
#[derive(Debug, Clone)]
pub struct SourceContext {
    pub shared: Shared,
    pub backend: BackendName,
    /// At most this long between two looks, so that an answer is known to be fresh.
    pub look_every: Duration,
    /// The greatest weight a source may scale its own weights to.
    pub max_weight: crate::model::Weight,
    pub options: SourceOptions,
}

/// What a source saw, and when.
#[derive(Debug, Clone)]
pub struct Look {
    pub at: Instant,
    /// The complete set, or why there is none, in a sentence fragment.
    pub result: Result<Answer, String>,
}

/// A running source; dropping it ends it.
#[derive(Debug)]
pub struct Source {
    looks: watch::Receiver<Option<Arc<Look>>>,
    released: watch::Sender<BTreeSet<EndpointId>>,
    _task: OwnedTask<()>,
}

impl Source {
    pub fn start(spec: SourceSpec, context: SourceContext) -> Self {
        let (told, looks) = watch::channel(None);
        let teller = Teller(told);
        let (released, releases) = watch::channel(BTreeSet::new());
        let task = match spec {
            SourceSpec::Registry => spawn_owned(registry::run(context, teller)),
            SourceSpec::File(path) => spawn_owned(file::run(path, context, teller)),
            SourceSpec::Dns(name) => spawn_owned(dns::run(name, context, teller)),
            SourceSpec::Asg(spec) => spawn_owned(asg::run(spec, context, teller, releases)),
            SourceSpec::Consul(services) => spawn_owned(consul::run(services, context, teller)),
        };
        Self { looks, released, _task: task }
    }

    /// Of the servers that [await](Answer::awaiting) their end, these have drained.
    pub fn release(&self, ids: BTreeSet<EndpointId>) {
        self.released.send_if_modified(|released| {
            let changed = *released != ids;
            *released = ids;
            changed
        });
    }

    /// The next look, the latest where several came; cancel-safe. An error: the source panicked.
    pub async fn next(&mut self) -> anyhow::Result<Arc<Look>> {
        loop {
            self.looks.changed().await.map_err(|_| anyhow::anyhow!("the source panicked"))?;
            if let Some(look) = self.looks.borrow_and_update().clone() {
                return Ok(look);
            }
        }
    }
}

/// A source's end of its channel.
#[derive(Debug)]
struct Teller(watch::Sender<Option<Arc<Look>>>);

impl Teller {
    fn tell(&self, result: Result<Answer, String>) {
        self.tell_at(Instant::now(), result);
    }

    /// Tells what was seen a while ago.
    fn tell_at(&self, at: Instant, result: Result<Answer, String>) {
        // Whoever writes the file or answers for DNS has a part in the words.
        let result = result.map_err(|error| text::one_line(&error).into_owned());
        self.0.send_replace(Some(Arc::new(Look { at, result })));
    }
}

impl SourceSpec {
    /// The metrics' label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::File(_) => "file",
            Self::Dns(_) => "dns",
            Self::Asg(_) => "asg",
            Self::Consul(_) => "consul",
        }
    }

    /// Says what is wrong with the options that this source has.
    pub fn check(&self, options: &SourceOptions) -> Result<(), String> {
        match self {
            Self::Consul(_) => consul::check(&options.consul),
            Self::Registry | Self::File(_) | Self::Dns(_) | Self::Asg(_) => Ok(()),
        }
    }

    /// A server that vanishes from this source may still be alive. A registration vanishes with its
    /// process, so that there is nothing left to drain.
    pub fn drains_vanished(&self) -> bool {
        !matches!(self, Self::Registry)
    }
}

impl FromStr for SourceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "registry" => Ok(Self::Registry),
            Some(("file", path)) => {
                let path = PathBuf::from(path);
                file::Format::of(&path)?;
                Ok(Self::File(path))
            }
            Some(("dns", name)) => Ok(Self::Dns(name.parse()?)),
            Some(("asg", groups)) => Ok(Self::Asg(groups.parse()?)),
            Some(("consul", services)) => Ok(Self::Consul(services.parse()?)),
            _ => Err(format!("{text:?} is not a source: use {FORMS}")),
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry => f.write_str("registry"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Asg(spec) => write!(f, "asg:{spec}"),
            Self::Consul(services) => write!(f, "consul:{services}"),
        }
    }
}

from_str_setting! { SourceSpec: [Kind::Text]; }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_as_written() {
        for text in [
            "registry",
            "file:/etc/web.toml",
            "dns:web.example:80",
            "dns:_http._tcp.web",
            "asg:web-a,eu-west-3:web-b",
            "consul:web,api.v2",
        ] {
            assert_eq!(text.parse::<SourceSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_source_is_refused_with_the_remedy() {
        for (bad, says) in [
            ("", "is not a source"),
            ("registry:x", "is not a source"),
            ("nomad:x", "use registry, file:PATH, dns:NAME[:PORT], asg:NAME"),
            ("file:", "is empty"),
            ("file:/etc/web", ".toml, .json, .yaml or .yml"),
            ("dns:", "is empty"),
            ("dns:web:0", "port"),
            ("dns:web:http", "port"),
            ("consul:", "is empty: use consul:SERVICE"),
            ("consul:web,", "is empty"),
            ("consul:web,api,web", "web is there twice"),
            ("consul:../kv", "use letters, digits"),
        ] {
            let error = bad.parse::<SourceSpec>().unwrap_err();
            assert!(error.contains(says), "{bad:?}: {error}");
        }
    }
}
