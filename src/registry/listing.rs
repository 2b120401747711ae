use crate::model::Registration;
use crate::store::{Entry, Key};
use crate::text::one_line;

/// A backend's registrations, as far as they can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registrations {
    /// In the order of their ids.
    pub registrations: Vec<Registration>,
    /// What somebody else wrote there: for logs and status, never a reason to drop the rest.
    pub unreadable: Vec<Unreadable>,
}

/// An entry that is no registration, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registration {} is ignored: {problem}", one_line(key.as_str()))]
pub struct Unreadable {
    pub key: Key,
    pub problem: String,
}

/// Reads every entry under [`crate::model::keys::registry`], as a listing or a mirror has them.
pub fn read_all<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Registrations {
    let mut all = Registrations::default();
    for entry in entries {
        match read(entry) {
            Ok(registration) => all.registrations.push(registration),
            Err(unreadable) => all.unreadable.push(unreadable),
        }
    }
    all
}

/// Reads one entry. The id in the value must be the one in the key, so that no registration can
/// pose as another.
pub fn read(entry: &Entry) -> Result<Registration, Unreadable> {
    let fail = |problem: String| Err(Unreadable { key: entry.key.clone(), problem });
    let registration: Registration = match entry.json() {
        Ok(registration) => registration,
        Err(problem) => return fail(problem),
    };
    let id = registration.endpoint.id.as_str();
    if entry.key.last() != id {
        return fail(format!("its value has the id {id:?}"));
    }
    if !entry.is_held() {
        return fail("it is on no lease, so that no server stands behind it: delete it".to_owned());
    }
    Ok(registration)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::keys;
    use crate::store::{LeaseId, Revision};

    fn entry(id: &str, value: &str) -> Entry {
        let backend = "web".parse().unwrap();
        Entry {
            key: keys::registration(&backend, &id.parse().unwrap()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            created: Revision(1),
            modified: Revision(1),
            lease: Some(LeaseId(1)),
        }
    }

    fn value(id: &str) -> String {
        format!(
            r#"{{"id":"{id}","address":"10.0.0.1:80","since":"2026-01-01T00:00:00Z","new":true}}"#
        )
    }

    #[test]
    fn what_is_sound_is_read_and_the_rest_is_named() {
        let entries = [
            entry("a", &value("a")),
            entry("b", "{"),
            entry("c", &value("a")),
            entry("d", &value("d").replace("10.0.0.1:80", "0.0.0.0:80")),
            entry("e", "\u{1}"),
            Entry { key: "registry/web/\u{202e}f".parse().unwrap(), ..entry("f", "{") },
            Entry { lease: None, ..entry("g", &value("g")) },
        ];
        let all = read_all(&entries);
        let ids: Vec<_> = all.registrations.iter().map(|r| r.endpoint.id.as_str()).collect();
        assert_eq!(ids, ["a"]);
        let keys: Vec<_> = all.unreadable.iter().map(|u| u.key.last()).collect();
        assert_eq!(keys, ["b", "c", "d", "e", "\u{202e}f", "g"]);
        assert_eq!(
            all.unreadable[1].to_string(),
            r#"registration registry/web/c is ignored: its value has the id "a""#
        );
        assert!(all.unreadable[5].problem.contains("no lease"), "{}", all.unreadable[5]);
        let hostile = all.unreadable[4].to_string();
        assert!(hostile.contains(r"registry/web/\u{202e}f"), "{hostile}");
    }

    #[test]
    fn a_registration_reads_back_as_written() {
        let registration = read(&entry("a", &value("a"))).unwrap();
        let text = serde_json::to_string(&registration).unwrap();
        assert_eq!(read(&entry("a", &text)).unwrap(), registration);
    }
}
