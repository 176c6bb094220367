use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The most that is read of a log, in bytes; a failed start is a few kilobytes.
const LIMIT: u64 = 256 * 1024;

/// A place in the server's log, to read later what was written after it.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    path: PathBuf,
    offset: u64,
}

impl Mark {
    /// The log's present end.
    pub(crate) fn now(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            offset: path.metadata().map_or(0, |meta| meta.len()),
        }
    }

    /// The line that best says why the server ended: the fatal one, else the last.
    pub(crate) fn reason(&self) -> String {
        let text = self.text();
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines()
            .rfind(|line| line.contains("[FTL]"))
            .or_else(|| lines().next_back())
            .unwrap_or("it logged nothing")
            .to_owned()
    }

    /// The first line with one of some words.
    pub(crate) fn line_with(&self, words: &[&str]) -> Option<String> {
        let text = self.text();
        text.lines()
            .find(|line| words.iter().any(|word| line.contains(word)))
            .map(|line| line.trim().to_owned())
    }

    /// What was written since; empty if it cannot be read.
    fn text(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            // The server starts a new file when the old one has reached its limit.
            let from = if file.metadata()?.len() < self.offset {
                0
            } else {
                self.offset
            };
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(LIMIT).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_came_after_the_mark_counts() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(Mark::now(&log).reason(), "it logged nothing");
        fs::write(&log, "[1] [FTL] long ago\n").unwrap();
        let mark = Mark::now(&log);
        fs::write(
            &log,
            "[1] [FTL] long ago\n[2] [INF] hello\n[2] [FTL] no room\n[2] [INF] bye\n",
        )
        .unwrap();
        assert_eq!(mark.reason(), "[2] [FTL] no room");
        assert_eq!(mark.line_with(&["bye", "hello"]).unwrap(), "[2] [INF] hello");
        assert_eq!(mark.line_with(&["long ago"]), None);
        fs::write(&log, "new\n").unwrap();
        assert_eq!(mark.reason(), "new", "a new file is read from its start");
    }
}
