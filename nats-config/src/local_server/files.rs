use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::LocalServerError;

/// Makes a folder, and what is missing above it, that only its owner may enter. An existing one is left as it is.
pub(crate) fn private_dir(path: &Path) -> Result<(), LocalServerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(LocalServerError::file("make the folder", path))
}

/// Writes a file that did not exist, all of it or nothing; `false` if it exists.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<bool, LocalServerError> {
    let half = write_beside(path, bytes)?;
    let linked = fs::hard_link(&half, path);
    remove_quietly(&half);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(LocalServerError::file("write", path)(error)),
    }
}

/// Writes a file, replacing what was there at one stroke.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), LocalServerError> {
    let half = write_beside(path, bytes)?;
    fs::rename(&half, path).map_err(|error| {
        remove_quietly(&half);
        LocalServerError::file("write", path)(error)
    })
}

/// A file of the same folder that nobody else writes, mode 0600, flushed to disk.
fn write_beside(path: &Path, bytes: &[u8]) -> Result<PathBuf, LocalServerError> {
    let half = path.with_extension(format!("{}.half", uuid::Uuid::now_v7().simple()));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&half)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| {
        remove_quietly(&half);
        LocalServerError::file("write", path)(error)
    })?;
    Ok(half)
}

fn remove_quietly(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a temporary file stays behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_never_replaces_and_a_replacement_always_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert!(write_new(&path, b"one").unwrap());
        assert!(!write_new(&path, b"two").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file stays behind"
        );
    }
}
