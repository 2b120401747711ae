//! The targets of `fuzz/`. Each takes any bytes, and panics where what it guards does not hold.
//!
//! They stand beside the code that they call, in each folder's `fuzzing.rs`, and are no part of a
//! usual build. The test below runs them over the inputs that are kept in `fuzz/corpus`.

pub use crate::commands::discover::fuzzing::slot_table;
pub use crate::commands::discover::sources::fuzzing::{consul_answer, endpoint_list};
pub use crate::commands::serve::fuzzing::{client_lines, proxy_header};
pub use crate::commands::store::fuzzing::import_lines;
pub use crate::commands::sync_haproxy::fuzzing::haproxy_commands;
pub use crate::haproxy::fuzzing::{haproxy_framing, haproxy_reply, haproxy_tables};
pub use crate::hsdo::fuzzing::hsdo_rows;
pub use crate::hsdo::hsdo_settings;
pub use crate::model::fuzzing::names;
pub use crate::overview::fuzzing::overview;
pub use crate::store::fuzzing::store_url;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 15] = [
        ("client_lines", client_lines),
        ("consul_answer", consul_answer),
        ("endpoint_list", endpoint_list),
        ("haproxy_commands", haproxy_commands),
        ("haproxy_framing", haproxy_framing),
        ("haproxy_reply", haproxy_reply),
        ("haproxy_tables", haproxy_tables),
        ("hsdo_rows", hsdo_rows),
        ("hsdo_settings", hsdo_settings),
        ("import_lines", import_lines),
        ("names", names),
        ("overview", overview),
        ("proxy_header", proxy_header),
        ("slot_table", slot_table),
        ("store_url", store_url),
    ];

    fn inside(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn every_kept_input_holds() {
        let mut failed = Vec::new();
        for (name, target) in TARGETS {
            for input in inside(&format!("corpus/{name}")) {
                let bytes = std::fs::read(&input).unwrap();
                if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                    failed.push(input);
                }
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn every_target_is_built_and_has_inputs() {
        let wanted: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        for folder in ["fuzz_targets", "corpus"] {
            let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let found: BTreeSet<String> = inside(folder).into_iter().map(stem).collect();
            assert_eq!(found, wanted, "in fuzz/{folder}");
        }
        for name in wanted {
            assert!(!inside(&format!("corpus/{name}")).is_empty(), "{name} has no input");
        }
    }
}
