//! The data folder: whose it is, and the secrets that are made in it.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};

/// Holds the data folder for this process until it is dropped.
pub(crate) struct DataLock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

/// Makes the folder if it is missing and takes it for this process.
pub(crate) fn lock(data: &Path) -> anyhow::Result<DataLock> {
    let cannot = || {
        format!(
            "the data folder {} cannot be used; choose another with --data",
            data.display()
        )
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(cannot)?;
    let path = data.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(DataLock(file)),
        Err(TryLockError::WouldBlock) => bail!(
            "another natterjack runs on the data folder {}; stop it, or choose another folder with --data",
            data.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
    }
}

/// The key that all bridges share to seal cursors: 32 bytes, made when `make` is set and it is missing.
pub(crate) fn cursor_key(keys: &Path, make: bool) -> anyhow::Result<[u8; 32]> {
    let path = keys.join("cursor.key");
    if make && !path.exists() {
        let key: [u8; 32] = rand::random();
        write_secret(&path, &key).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bytes = std::fs::read(&path).with_context(|| {
        format!(
            "cannot read {}; all bridges share it, copy it from the others or from `natterjack up`",
            path.display()
        )
    })?;
    bytes
        .try_into()
        .map_err(|_| anyhow::anyhow!("{} must hold exactly 32 bytes", path.display()))
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(part, path)
}

/// Writes a file that people and programs read, whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text)?;
    std::fs::rename(part, path)
}
