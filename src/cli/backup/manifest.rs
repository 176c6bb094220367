//! What a backup is made of: a list of its files with their hashes, which is written last. A folder without it is no backup.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use natterjack_nats_config::contract::Subjects;
use natterjack_nats_config::tail::Log;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::role::data::write_secret;

/// The manifest's name in the folder.
pub(super) const FILE: &str = "manifest.json";
const FORMAT: &str = "natterjack-backup";
const VERSION: u32 = 1;
/// Bytes of a file that are hashed at a time.
const CHUNK: usize = 1 << 20;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(super) format: String,
    pub(super) version: u32,
    /// The program that made it.
    pub(super) program: String,
    /// When, by this machine's clock.
    pub(super) at: String,
    /// How subjects and streams are named.
    pub(super) prefix: String,
    pub(super) shard: u16,
    pub(super) epoch: u32,
    /// The last frame that it has.
    pub(super) upto: u64,
    pub(super) events: u64,
    pub(super) files: Vec<Entry>,
}

/// A file, by its path in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn new(log: &Log, prefix: &str, at: String) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            at,
            prefix: prefix.to_owned(),
            shard: log.shard,
            epoch: log.epoch,
            upto: 0,
            events: 0,
            files: Vec::new(),
        }
    }

    /// The log whose events it has.
    pub(super) fn log(&self, subjects: &Subjects) -> Log {
        Log {
            subjects: subjects.clone(),
            shard: self.shard,
            epoch: self.epoch,
        }
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        write_secret(&folder.join(FILE), text.as_bytes()).context("the manifest cannot be written")
    }

    /// Reads it, and looks that every file of it is there as it was written. `progress` is told how many bytes were looked at,
    /// and of how many.
    pub(super) fn check(folder: &Path, progress: impl Fn(u64, u64)) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{} is no backup, or was not finished: {FILE} cannot be read",
                folder.display()
            )
        })?;
        let head: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let version = head.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            bail!("the backup is of version {version:?}, this program reads version {VERSION}");
        }
        let manifest: Self = serde_json::from_value(head).with_context(|| format!("{} is damaged", path.display()))?;
        let all = manifest.files.iter().map(|file| file.bytes).sum();
        let mut done = 0;
        for file in &manifest.files {
            let found = Entry::of(folder, &file.path)?;
            if found != *file {
                bail!(
                    "{} is not the file that was written: {} bytes with the SHA-256 {}, and {} bytes with {} are expected",
                    folder.join(&file.path).display(),
                    found.bytes,
                    found.sha256,
                    file.bytes,
                    file.sha256
                );
            }
            done += file.bytes;
            progress(done, all);
        }
        Ok(manifest)
    }

    /// The files of a folder of the backup, by their names.
    pub(super) fn files_in(&self, folder: &str) -> impl Iterator<Item = (&str, &Entry)> {
        let prefix = format!("{folder}/");
        self.files.iter().filter_map(move |file| {
            let name = file.path.strip_prefix(prefix.as_str())?;
            Some((name, file))
        })
    }
}

impl Entry {
    /// A file as it now is.
    pub(super) fn of(folder: &Path, path: &str) -> anyhow::Result<Self> {
        // What a manifest names stays in its folder.
        if Path::new(path)
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)))
        {
            bail!("the backup names a file outside of it: {path:?}");
        }
        let whole = folder.join(path);
        let cannot = || format!("{} cannot be read", whole.display());
        let mut file = File::open(&whole).with_context(cannot)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read(&mut chunk).with_context(cannot)?;
            let Some(part) = chunk.get(..read).filter(|part| !part.is_empty()) else {
                break;
            };
            hash.update(part);
            bytes += part.len() as u64;
        }
        let mut sha256 = String::with_capacity(64);
        for byte in hash.finalize() {
            let _ = write!(sha256, "{byte:02x}");
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = || Manifest::check(folder.path(), |_, _| {}).map_err(|error| format!("{error:#}"));
        assert!(check().unwrap_err().contains("was not finished"));
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        std::fs::write(folder.path().join("keys/a"), "secret").unwrap();
        let log = Log::first(Subjects::default());
        let mut manifest = Manifest::new(&log, "chat", "now".to_owned());
        manifest.files.push(Entry::of(folder.path(), "keys/a").unwrap());
        manifest.write(folder.path()).unwrap();
        assert_eq!(check().unwrap(), manifest);
        assert_eq!(
            manifest.files_in("keys").map(|(name, _)| name).collect::<Vec<_>>(),
            ["a"]
        );
        for text in ["Secret", "secrets", ""] {
            std::fs::write(folder.path().join("keys/a"), text).unwrap();
            assert!(check().unwrap_err().contains("keys/a"), "{text}");
        }
        manifest.files = vec![Entry {
            path: "../a".to_owned(),
            bytes: 0,
            sha256: String::new(),
        }];
        manifest.write(folder.path()).unwrap();
        assert!(check().unwrap_err().contains("outside"));
        manifest.version = 2;
        manifest.write(folder.path()).unwrap();
        assert!(check().unwrap_err().contains("version"));
    }
}
