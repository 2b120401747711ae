use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lifts the soft limit of open files, which most systems begin with at 1024, to the hard one;
/// answers what may be open now.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
