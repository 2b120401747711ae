//! The alarms for Prometheus name metrics that exist, and each has its section in the docs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const RULES: &str = include_str!("../../deploy/prometheus/lbctl.rules.yml");
const PAGE: &str = include_str!("../../docs/operations.md");

fn after<'t>(text: &'t str, prefix: &str) -> BTreeSet<&'t str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(prefix)).collect()
}

/// Every word of the form `lbctl_…`.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("lbctl_")).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn every_alarm_is_explained_and_nothing_else() {
    let alarms = after(RULES, "- alert: ");
    assert!(alarms.len() > 10, "{alarms:?}");
    let sections: BTreeSet<&str> =
        after(PAGE, "### ").into_iter().filter(|title| title.starts_with("Lbctl")).collect();
    assert_eq!(alarms, sections);
}

#[test]
fn alarms_and_docs_name_metrics_that_exist() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let code: String =
        sources(&src).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let known = metrics(&code);
    let readme = include_str!("../../README.md");
    for named in [RULES, PAGE, readme].iter().flat_map(|text| metrics(text)) {
        // A counter is shown with it, and declared without.
        let declared = named.strip_suffix("_total").unwrap_or(named);
        assert!(known.contains(declared), "no metric is called {named}");
    }
}
