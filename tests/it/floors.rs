//! Lower floors know nothing of higher ones, and subcommands never import each other.

use std::path::{Path, PathBuf};

/// The modules of the library, lowest first; those of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["files", "text"],
    &["error", "model"],
    &["config", "output"],
    &["aws", "daemon"],
    &["store", "haproxy"],
    &["election", "hsdo", "presence"],
    &["registry", "overview"],
    &["demo", "discover", "register", "serve", "status", "sync_haproxy"],
    &["cli"],
    &["fuzzing"],
];

#[test]
fn no_module_knows_one_of_its_own_floor_or_above() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for file in sources(&src) {
        let module = module_of(file.strip_prefix(&src).unwrap());
        let Some(floor) = floor_of(&module) else {
            assert!(["lib", "main"].contains(&module.as_str()), "{module} has no floor: add it");
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        // What tests use is no part of the structure.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for used in mentions(code) {
            let below = floor_of(&used).is_some_and(|other| other < floor);
            assert!(used == module || below, "{} uses crate::{used}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} uses were found");
}

#[test]
fn every_way_to_write_a_use_is_seen() {
    let code = "use crate::store::Key;\nuse crate::{demo, cli::Cli};\nlet a = crate::model::x();";
    assert_eq!(mentions(code), ["store", "demo", "cli", "model"]);
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The top-level module a file belongs to: `store` for `store/key.rs`, `cli` for `cli.rs`.
fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules behind each `crate::`, alone or in braces.
fn mentions(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(list.split(',').map(str::trim).filter(|n| !n.is_empty()).map(name));
            }
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
