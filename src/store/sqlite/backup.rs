//! Copies of a whole database, made and put in place while others use it.

use std::fs::{self, File};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::data::History;
use super::database::{Access, Database};
use super::failure::{Failure, Outcome};
use super::{file, schema};
use crate::store::ErrorKind;

/// What a backup has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    pub keys: u64,
    pub revision: u64,
}

/// Writes all of the database, at one revision, to a file, which it replaces as a whole.
pub(super) fn write(database: &mut Database, target: &Path) -> Outcome<Backup> {
    let failed = |error| Failure::io(format_args!("write {}", target.display()), &error);
    if fs::canonicalize(target).is_ok_and(|target| database.is_at(&target)) {
        return Err(Failure::new(
            ErrorKind::Denied,
            "the backup would replace the database itself",
        )
        .hint("name another file"));
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let part = tempfile::Builder::new()
        .prefix(".lbctl-backup-")
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    let text = part.path().to_str().ok_or_else(|| {
        Failure::new(ErrorKind::Unsupported, "the path of the backup is not UTF-8")
    })?;
    database.copy_to(text)?;
    let backup = contents(&open(part.path())?)?;
    part.as_file().sync_all().map_err(failed)?;
    part.persist(target).map_err(|error| failed(error.error))?;
    file::sync_folder(&std::path::absolute(target).map_err(failed)?).map_err(failed)?;
    Ok(backup)
}

/// Puts a backup in the place of the database: those who have it open find it and go on with that.
/// What was there is kept in `PATH-before-restore`.
pub(super) fn restore(path: &Path, from: &Path, dry_run: bool) -> Outcome<Backup> {
    let failed = |error| Failure::io(format_args!("read {}", from.display()), &error);
    let path = std::path::absolute(path).map_err(failed)?;
    let path = fs::canonicalize(&path).unwrap_or(path);
    if fs::canonicalize(from).map_err(failed)? == path {
        return Err(Failure::new(ErrorKind::Denied, "this is the database itself"));
    }
    let folder = match dry_run {
        true => std::env::temp_dir(),
        false => {
            file::make_folder(&path)?;
            path.parent().unwrap_or(Path::new("/")).to_owned()
        }
    };
    let work = tempfile::Builder::new().prefix(".lbctl-restore-").tempdir_in(folder);
    let work = work.map_err(|error| Failure::io("make a folder for the restore", &error))?;
    let part = work.path().join("part");
    fs::copy(from, &part).map_err(failed)?;
    // A file that was copied under a running lbctl, with its log.
    let log = file::beside(from, "-wal");
    if log.exists() {
        fs::copy(&log, file::beside(&part, "-wal")).map_err(failed)?;
    }
    let connection = open(&part)?;
    schema::check(&connection)?;
    let backup = contents(&connection)?;
    if dry_run {
        return Ok(backup);
    }
    schema::begin_another_life(&connection, 0)?;
    connection.close().map_err(|(_, error)| error)?;
    file::own_alone(&part, &path).map_err(failed)?;
    File::open(&part).and_then(|part| part.sync_all()).map_err(failed)?;
    keep(&path);
    fs::rename(&part, &path).map_err(|error| Failure::io("put the backup in place", &error))?;
    // Finds that it is another file, as all others do, and ties it to what is beside it.
    Database::open(&path, History::default(), Access::Write)?.close();
    Ok(backup)
}

/// Keeps what is there; a database that cannot be read is no reason not to restore one.
fn keep(path: &Path) {
    if !path.exists() {
        return;
    }
    let kept = file::beside(path, "-before-restore");
    let copied =
        Database::open(path, History::default(), Access::Guest).and_then(|mut database| {
            let copied = write(&mut database, &kept);
            database.close();
            copied
        });
    match copied {
        Ok(_) => tracing::info!(path = %kept.display(), "kept the database as it was"),
        Err(failure) => {
            let error = failure.into_error("backup", "");
            tracing::warn!(%error, "could not keep the database as it was");
        }
    }
}

fn open(path: &Path) -> Outcome<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(path, flags)?)
}

fn contents(connection: &Connection) -> Outcome<Backup> {
    let (_, revision) = schema::life_and_revision(connection)?;
    let keys: i64 = connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0))?;
    Ok(Backup { keys: keys.unsigned_abs(), revision: revision.unsigned_abs() })
}
