//! The HAProxies' reports, split among the backends that they are about.

use crate::model::{HaproxyReport, Timestamp, keys};
use crate::store::{Entry, Part, SharedStore, SharedWatch};

/// Watches all reports. A report is read once for all backends, and one of them hears of it only
/// when what it says of that one is new.
pub(super) fn watch(store: SharedStore) -> SharedWatch {
    SharedWatch::new(store, keys::haproxies(), Box::new(split))
}

fn split(entry: &Entry) -> Vec<(Part, Entry)> {
    // One that cannot be read may be about any backend.
    let all = || vec![(Part::All, entry.clone())];
    let Ok(mut report) = entry.json::<HaproxyReport>() else { return all() };
    let backends = std::mem::take(&mut report.backends);
    // These change with every report, and no plan asks for them.
    (report.at, report.version) = (Timestamp::UNIX_EPOCH, None);
    let own = |(name, part)| {
        let part_name = Part::Of(format!("{name}"));
        let report = HaproxyReport { backends: [(name, part)].into(), ..report.clone() };
        let value = serde_json::to_vec(&report).ok()?;
        Some((part_name, Entry { value: value.into(), modified: entry.created, ..entry.clone() }))
    };
    backends.into_iter().map(own).collect::<Option<_>>().unwrap_or_else(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Revision;

    fn split_of(report: &str, modified: u64) -> Vec<(Part, Entry)> {
        split(&Entry {
            key: "haproxies/lb1".parse().unwrap(),
            value: report.to_owned().into(),
            created: Revision(1),
            modified: Revision(modified),
            lease: None,
        })
    }

    fn report(second: u8, drift: u32) -> String {
        let part = |drift| format!(r#"{{"applied":7,"converged":true,"drift":{drift}}}"#);
        format!(
            r#"{{"name":"lb1","pid":1,"version":"3.{second}","at":"2026-01-01T00:00:0{second}Z",
                "backends":{{"api":{},"web":{}}}}}"#,
            part(0),
            part(drift)
        )
    }

    #[test]
    fn a_report_is_news_to_the_backend_that_it_says_something_new_of() {
        let (before, after) = (split_of(&report(1, 0), 2), split_of(&report(2, 1), 3));
        let names: Vec<&Part> = before.iter().map(|(part, _)| part).collect();
        assert_eq!(names, [&Part::Of("api".into()), &Part::Of("web".into())]);
        assert_eq!(before[0], after[0]);
        assert_ne!(before[1], after[1]);
        let web: HaproxyReport = after[1].1.json().unwrap();
        assert_eq!((web.pid, web.backends.len()), (Some(1), 1));
        assert_eq!(web.backends.values().next().unwrap().drift, 1);
    }

    #[test]
    fn one_that_cannot_be_read_is_everybodys() {
        let all = split_of("{", 2);
        assert!(matches!(&all[..], [(Part::All, entry)] if entry.value == "{"));
    }
}
