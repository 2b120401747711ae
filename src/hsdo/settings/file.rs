use std::path::{Path, PathBuf};

use super::yaml::{self, Entry, Value};
use crate::config::ConfigError;

/// HSDO's `conf/env.yaml`.
#[derive(Debug, Default)]
pub struct HsdoFile {
    pub path: PathBuf,
    pub entries: Vec<Entry>,
}

impl HsdoFile {
    pub fn load(
        path: &Path,
        read: impl FnOnce(&Path) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|error| {
            ConfigError(vec![format!("cannot read {}: {error}", path.display())])
        })?;
        Self::parse(path, &text)
    }

    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let problem = |line: usize, message: &str| {
            Err(ConfigError(vec![format!("{}:{line}: {message}", path.display())]))
        };
        let entries = match yaml::parse(text) {
            Ok(Value::Map(entries)) => entries,
            Ok(Value::Text(text)) if text.is_empty() => Vec::new(),
            Ok(_) => return problem(1, "must be a map of HSDO's settings, as in INTERVAL: 1"),
            Err(error) => return problem(error.line, &error.message),
        };
        Ok(Self { path: path.to_owned(), entries })
    }
}
