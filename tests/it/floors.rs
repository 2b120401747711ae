//! Lower floors know nothing of higher ones, and commands never import each other.

use std::path::{Path, PathBuf};

/// The modules of the library, lowest floor first, as `docs/architecture.md` has them: rows of
/// `| NUMBER | folders | what |`. Those of one floor do not know each other.
fn floors() -> Vec<Vec<String>> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let rows = docs.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?.parse::<usize>().ok()?, cells.next()?))
    });
    let mut floors: Vec<Vec<String>> = Vec::new();
    for (number, folders) in rows {
        assert!([floors.len(), floors.len() + 1].contains(&number), "floor {number} is misplaced");
        floors.resize(number, Vec::new());
        let modules = folders.split('`').filter_map(|part| part.strip_prefix("src/"));
        floors[number - 1].extend(modules.map(|name| name.trim_end_matches(".rs").to_owned()));
    }
    floors
}

#[test]
fn no_module_knows_one_of_its_own_floor_or_above() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors = floors();
    let floor_of = |module: &String| floors.iter().position(|floor| floor.contains(module));
    let mut checked = 0;
    for file in sources(&src) {
        let module = module_of(file.strip_prefix(&src).unwrap());
        let Some(floor) = floor_of(&module) else {
            let known = ["lib", "main"].contains(&module.as_str());
            assert!(known, "{module} has no floor: add it to docs/architecture.md");
            continue;
        };
        for used in mentions(&code_of(&file)) {
            let below = floor_of(&used).is_some_and(|other| other < floor);
            assert!(used == module || below, "{} uses crate::{used}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} uses were found");
}

#[test]
fn commands_never_import_each_other() {
    let commands = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands");
    let mut checked = 0;
    for file in sources(&commands) {
        let own = module_of(file.strip_prefix(&commands).unwrap());
        for rest in code_of(&file).split("crate::commands::").skip(1) {
            assert!(name(rest) == own, "{} uses the command {}", file.display(), name(rest));
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} uses were found");
}

/// What tests use is no part of the structure.
fn code_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

#[test]
fn every_way_to_write_a_use_is_seen() {
    let code = "use crate::store::Key;\nuse crate::{demo, cli::Cli};\nlet a = crate::model::x();";
    assert_eq!(mentions(code), ["store", "demo", "cli", "model"]);
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
