//! Whether the words behind `add server` have the effect that was meant. What HAProxy's configuration
//! says of a backend's servers in general (`default-server`, cookies) does not all hold for those that
//! are added at runtime, and nobody says so.

use std::collections::BTreeMap;

use super::target::Dynamic;
use crate::haproxy::{Features, ObservedServer};

/// A backend with servers that were added.
#[derive(Debug)]
pub struct Added<'a> {
    pub dynamic: &'a Dynamic,
    pub ours: &'a [&'a ObservedServer],
    /// Servers of its configuration.
    pub others: &'a [&'a ObservedServer],
    /// Of each server, and of the backend as a whole.
    pub features: &'a BTreeMap<String, Features>,
}

impl Added<'_> {
    /// The backend has a cookie and some of the servers that were added have none, without a word of
    /// theirs: up to 2.8 HAProxy gives them no dynamic one until it is told to (seen on 2.6).
    pub fn lacks_cookies(&self) -> bool {
        let backend = self.features.get(Features::BACKEND).is_some_and(|backend| backend.cookie);
        backend
            && !self.says("cookie")
            && self.ours.iter().any(|server| !self.has(server, |f| f.cookie))
    }

    /// What the added servers lack that was asked for, or that others of their backend have.
    pub fn lacks(&self) -> Vec<&'static str> {
        let some = |is: &dyn Fn(&ObservedServer) -> bool| self.others.iter().any(|s| is(s));
        let none = |is: &dyn Fn(&ObservedServer) -> bool| !self.ours.iter().any(|s| is(s));
        let checks = CHECK.iter().any(|word| self.says(word)) || some(&|server| server.checked);
        let agents = AGENT.iter().any(|word| self.says(word)) || some(&|server| server.has_agent);
        let tls = TLS.iter().any(|word| self.says(word)) || some(&|server| server.uses_tls);
        let limit = |server: &ObservedServer| self.has(server, |features| features.limit);
        let lacks = [
            ("cookie", self.lacks_cookies()),
            ("check", checks && none(&|server| server.checked)),
            ("agent-check", agents && none(&|server| server.has_agent)),
            ("ssl", tls && none(&|server| server.uses_tls)),
            ("maxconn", some(&limit) && none(&limit)),
        ];
        lacks.into_iter().filter(|(_, lacks)| *lacks).map(|(word, _)| word).collect()
    }

    /// What the added servers have and have not of that which people set once for all servers.
    pub fn summary(&self) -> String {
        let any = |is: &dyn Fn(&ObservedServer) -> bool| self.ours.iter().any(|s| is(s));
        [
            ("checks", any(&|server| server.checked)),
            ("TLS", any(&|server| server.uses_tls)),
            ("maxconn", any(&|server| self.has(server, |features| features.limit))),
        ]
        .map(|(word, has)| if has { word.to_owned() } else { format!("no {word}") })
        .join(", ")
    }

    fn says(&self, word: &str) -> bool {
        self.dynamic.options.split_whitespace().any(|said| said == word)
    }

    fn has(&self, server: &ObservedServer, feature: fn(&Features) -> bool) -> bool {
        self.features.get(&server.name).is_some_and(feature)
    }
}

/// Words that mean nothing without `check`, `agent-check` and `ssl`.
const CHECK: [&str; 6] = ["check", "inter", "fastinter", "downinter", "rise", "fall"];
const AGENT: [&str; 4] = ["agent-check", "agent-port", "agent-inter", "agent-addr"];
const TLS: [&str; 6] = ["ssl", "verify", "ca-file", "crt", "sni", "alpn"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sync_haproxy::testing::named;

    fn lacks(
        options: &str,
        ours: &ObservedServer,
        other: Option<&ObservedServer>,
    ) -> Vec<&'static str> {
        let dynamic = Dynamic { options: options.to_owned(), id_base: 0 };
        let features = [
            (Features::BACKEND.to_owned(), Features { cookie: true, limit: true }),
            ("web1".to_owned(), Features { cookie: true, limit: true }),
            ("srv1".to_owned(), Features { cookie: false, limit: false }),
        ];
        let features = features.into();
        let others: Vec<&ObservedServer> = other.into_iter().collect();
        Added { dynamic: &dynamic, ours: &[ours], others: &others, features: &features }.lacks()
    }

    #[test]
    fn what_was_meant_and_is_not_there_is_named() {
        let bare = ObservedServer { checked: false, ..named("srv1") };
        assert_eq!(lacks("cookie x check", &named("srv1"), None), [""; 0]);
        assert_eq!(lacks("maxconn 5", &bare, None), ["cookie"]);
        assert_eq!(lacks("inter 1s verify none", &bare, None), ["cookie", "check", "ssl"]);
        assert_eq!(lacks("cookie x check agent-check", &bare, None), ["check", "agent-check"]);
        let other = ObservedServer { uses_tls: true, has_agent: true, ..named("web1") };
        let all = ["cookie", "check", "agent-check", "ssl", "maxconn"];
        assert_eq!(lacks("", &bare, Some(&other)), all);
    }
}
