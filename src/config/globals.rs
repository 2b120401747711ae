use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::document::{DEFAULT_FILE, Document, read as read_file};
use super::{ConfigError, Flags, Layer, LogFormat, LogSettings, Reader, Secret, show_choice};

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Globals {
    /// Read settings from this TOML file [default: /etc/lbctl/lbctl.toml, if there]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,

    /// Where the shared state is: sqlite:PATH, etcd://HOST:PORT,HOST:PORT/PREFIX, etcds://… for
    /// TLS, dynamodb://TABLE/PREFIX?region=REGION, or memory:
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub store: Option<Secret>,

    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Global options")]
    pub log_format: Option<LogFormat>,

    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,

    /// Say only warnings; twice for nothing
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: u8,

    /// The file as it was read before logging started, for the first reader: it may be a pipe, which
    /// cannot be read twice.
    #[arg(skip)]
    first: Arc<Mutex<Option<Result<Document, ConfigError>>>>,

    /// The pipes that were read.
    #[arg(skip)]
    pipes: Arc<Mutex<BTreeSet<PathBuf>>>,

    /// Another program's settings.
    #[arg(skip)]
    layer: Arc<Layer>,
}

impl Globals {
    /// The same, with another file.
    #[must_use]
    pub fn with_file(&self, file: PathBuf) -> Self {
        Self { config: Some(file), first: Arc::default(), ..self.clone() }
    }

    /// The same, with another program's settings below the file.
    #[must_use]
    pub fn over(&self, layer: Layer) -> Self {
        Self { layer: Arc::new(layer), ..self.clone() }
    }

    /// A reader over the file, this process's environment and a command's flags, with the global
    /// settings read already. Each call but the first reads the file again.
    pub fn reader(&self, flags: Flags) -> Result<Reader, ConfigError> {
        Ok(with_log(self.reader_of(self.document()?, flags)))
    }

    /// The same, with flags that are settings of each table of a list.
    pub fn reader_of_list(
        &self,
        list: &str,
        flags: impl FnOnce(&[String]) -> Flags,
    ) -> Result<Reader, ConfigError> {
        let document = self.document()?;
        let members = self.reader_of(document.clone(), Flags::new()).tables(list);
        Ok(with_log(self.reader_of(document, flags(&members))))
    }

    /// How to log. Mistakes are passed over here: the command's own reader reports them.
    pub fn log_settings(&self) -> LogSettings {
        let document = self.load();
        let settings = match document.clone() {
            Ok(document) => LogSettings::read(&mut self.reader_of(document, Flags::new())),
            Err(_) => LogSettings::read(&mut self.reader_of(Document::default(), Flags::new())),
        };
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(document);
        settings
    }

    /// Reads a file of settings. A pipe is read once: a second time it is empty, or its writer never
    /// comes.
    pub fn read(&self, path: &Path) -> std::io::Result<String> {
        let is_pipe = std::fs::metadata(path)?.file_type().is_fifo();
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        if is_pipe && !pipes.insert(path.to_owned()) {
            let message = "it is a pipe, which is read already: to read it again, give a file";
            return Err(std::io::Error::other(message));
        }
        read_file(path)
    }

    fn document(&self) -> Result<Document, ConfigError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.load())
    }

    /// The file that settings are read from, be it there or not.
    pub fn file(&self) -> PathBuf {
        self.named().unwrap_or_else(|| DEFAULT_FILE.into())
    }

    fn named(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| {
            std::env::var_os("LBCTL_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from)
        })
    }

    fn load(&self) -> Result<Document, ConfigError> {
        Document::load(self.named().as_deref(), |path| self.read(path))
    }

    fn reader_of(&self, document: Document, flags: Flags) -> Reader {
        // What is not UTF-8 becomes a text that the reader refuses, or is none of ours.
        let environment = std::env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        });
        let level = match (self.verbose, self.quiet) {
            (0, 0) => None,
            (0, 1) => Some(("-q", "warn")),
            (0, _) => Some(("-qq", "off")),
            (1, _) => Some(("-v", "debug")),
            (_, _) => Some(("-vv", "trace")),
        };
        let flags = flags
            .set("store.url", "--store", self.store.as_ref().map(Secret::reveal))
            .set("log.format", "--log-format", self.log_format.as_ref().map(show_choice))
            .set("log.level", level.map_or("", |(flag, _)| flag), level.map(|(_, level)| level));
        Reader::new(document, environment, flags).over(self.layer.clone())
    }
}

/// Reads the settings that every command has.
fn with_log(mut reader: Reader) -> Reader {
    LogSettings::read(&mut reader);
    reader
}
