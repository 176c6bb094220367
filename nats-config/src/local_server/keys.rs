use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nkeys::{KeyPair, XKey};

use super::{LocalServerError, files};
use crate::client::Seed;

/// The keys of one installation: who the workers are to the server, and who signs and reads the auth callout.
///
/// Each seed is a file of its own, `{name}.nk`, mode 0600, in a folder of mode 0700. Seeds never show in `Debug`.
#[derive(Debug, Clone)]
pub struct Keys {
    store: Key,
    devices: Key,
    bridge: Key,
    authz: Key,
    auth: Key,
    sys: Key,
    issuer: Key,
    xkey: Key,
}

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyName {
    /// The user `store` of account CORE.
    Store,
    /// The user of account DEVICES by whom store reads what devices publish, and keeps events for them.
    Devices,
    /// The user `bridge` of account CORE.
    Bridge,
    /// The user `authz` of account CORE.
    Authz,
    /// The user of account AUTH, who answers the callout.
    Auth,
    /// The user of account SYS, who finds and closes connections.
    Sys,
    /// The account key that signs the callout's answers.
    Issuer,
    /// The curve key to which the server encrypts the callout's requests.
    Xkey,
}

/// The public halves: all that the server's configuration needs, and no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys {
    /// `U…`, the user `store`.
    pub store: String,
    /// `U…`, the user of account DEVICES.
    pub devices: String,
    /// `U…`, the user `bridge`.
    pub bridge: String,
    /// `U…`, the user `authz`.
    pub authz: String,
    /// `U…`, the user of account AUTH.
    pub auth: String,
    /// `U…`, the user of account SYS.
    pub sys: String,
    /// `A…`, who signs the callout's answers.
    pub issuer: String,
    /// `X…`, to whom the callout's requests are encrypted.
    pub xkey: String,
}

#[derive(Debug, Clone)]
struct Key {
    seed: Seed,
    public: String,
}

impl Keys {
    /// Reads the keys of a folder, making the folder and each key that is missing. Two starts at once get the same keys.
    ///
    /// Fails with [`LocalServerError::Key`] on a damaged file and with [`LocalServerError::KeyExposed`] on one that
    /// others may read.
    pub fn load_or_create(dir: &Path) -> Result<Self, LocalServerError> {
        files::private_dir(dir)?;
        let key = |name| Key::load_or_create(dir, name);
        Ok(Self {
            store: key(KeyName::Store)?,
            devices: key(KeyName::Devices)?,
            bridge: key(KeyName::Bridge)?,
            authz: key(KeyName::Authz)?,
            auth: key(KeyName::Auth)?,
            sys: key(KeyName::Sys)?,
            issuer: key(KeyName::Issuer)?,
            xkey: key(KeyName::Xkey)?,
        })
    }

    /// The secret half.
    #[must_use]
    pub fn seed(&self, name: KeyName) -> &Seed {
        &self.key(name).seed
    }

    /// The public half, as the server knows it.
    #[must_use]
    pub fn public_key(&self, name: KeyName) -> &str {
        &self.key(name).public
    }

    /// All public halves.
    #[must_use]
    pub fn public(&self) -> PublicKeys {
        let public = |name| self.public_key(name).to_owned();
        PublicKeys {
            store: public(KeyName::Store),
            devices: public(KeyName::Devices),
            bridge: public(KeyName::Bridge),
            authz: public(KeyName::Authz),
            auth: public(KeyName::Auth),
            sys: public(KeyName::Sys),
            issuer: public(KeyName::Issuer),
            xkey: public(KeyName::Xkey),
        }
    }

    fn key(&self, name: KeyName) -> &Key {
        match name {
            KeyName::Store => &self.store,
            KeyName::Devices => &self.devices,
            KeyName::Bridge => &self.bridge,
            KeyName::Authz => &self.authz,
            KeyName::Auth => &self.auth,
            KeyName::Sys => &self.sys,
            KeyName::Issuer => &self.issuer,
            KeyName::Xkey => &self.xkey,
        }
    }
}

impl KeyName {
    fn file(self) -> &'static str {
        match self {
            Self::Store => "store.nk",
            Self::Devices => "devices.nk",
            Self::Bridge => "bridge.nk",
            Self::Authz => "authz.nk",
            Self::Auth => "auth.nk",
            Self::Sys => "sys.nk",
            Self::Issuer => "issuer.nk",
            Self::Xkey => "xkey.nk",
        }
    }

    fn new_seed(self) -> Result<String, nkeys::error::Error> {
        match self {
            Self::Xkey => XKey::new().seed(),
            Self::Issuer => KeyPair::new_account().seed(),
            _ => KeyPair::new_user().seed(),
        }
    }

    fn public_of(self, seed: &str) -> Result<String, nkeys::error::Error> {
        match self {
            Self::Xkey => Ok(XKey::from_seed(seed)?.public_key()),
            _ => Ok(KeyPair::from_seed(seed)?.public_key()),
        }
    }

    /// The letter with which a public key of this kind starts.
    fn letter(self) -> char {
        match self {
            Self::Xkey => 'X',
            Self::Issuer => 'A',
            _ => 'U',
        }
    }
}

impl Key {
    fn load_or_create(dir: &Path, name: KeyName) -> Result<Self, LocalServerError> {
        let path = dir.join(name.file());
        let unusable = |reason: String| LocalServerError::Key {
            path: path.clone(),
            reason,
        };
        if !path.exists() {
            let seed = name.new_seed().map_err(|error| unusable(error.to_string()))?;
            files::write_new(&path, format!("{seed}\n").as_bytes())?;
        }
        check_mode(&path)?;
        let text = fs::read_to_string(&path).map_err(LocalServerError::file("read", &path))?;
        let public = name
            .public_of(text.trim())
            .map_err(|error| unusable(error.to_string()))?;
        if !public.starts_with(name.letter()) {
            return Err(unusable(format!("it holds the key of another kind, {public}")));
        }
        let seed = Seed::parse(&text, name.file()).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { seed, public })
    }
}

/// Refuses a secret's file that others may read.
pub(crate) fn check_mode(path: &Path) -> Result<(), LocalServerError> {
    let meta = fs::metadata(path).map_err(LocalServerError::file("read", path))?;
    let mode = meta.permissions().mode() & 0o777;
    let others = mode & 0o077;
    if others == 0 {
        return Ok(());
    }
    Err(LocalServerError::KeyExposed {
        path: path.to_owned(),
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("keys");
        let first = Keys::load_or_create(&dir).unwrap();
        assert_eq!(Keys::load_or_create(&dir).unwrap().public(), first.public());
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o600,
                "{entry:?}"
            );
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        let all = "auth.nk authz.nk bridge.nk devices.nk issuer.nk store.nk sys.nk xkey.nk";
        assert_eq!(names.join(" "), all);
    }

    #[test]
    fn each_key_is_of_its_kind_and_a_seed_signs_for_its_public_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(dir.path()).unwrap();
        let public = keys.public();
        assert!(public.issuer.starts_with('A') && public.xkey.starts_with('X') && public.sys.starts_with('U'));
        let pair = KeyPair::from_seed(keys.seed(KeyName::Store).expose()).unwrap();
        assert_eq!(pair.public_key(), public.store);
        let xkey = XKey::from_seed(keys.seed(KeyName::Xkey).expose()).unwrap();
        assert_eq!(xkey.public_key(), public.xkey);
    }

    #[test]
    fn a_seed_never_shows() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(dir.path()).unwrap();
        let seed = keys.seed(KeyName::Issuer).expose().to_owned();
        assert!(!format!("{keys:?}").contains(&seed));
    }

    #[test]
    fn damaged_exposed_and_mistaken_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(dir.path()).unwrap();
        let path = dir.path().join("store.nk");

        fs::write(&path, "SUnonsense\n").unwrap();
        let error = Keys::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, LocalServerError::Key { .. }), "{error}");

        fs::write(&path, keys.seed(KeyName::Issuer).expose()).unwrap();
        let error = Keys::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, LocalServerError::Key { .. }), "{error}");

        fs::write(&path, keys.seed(KeyName::Store).expose()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Keys::load_or_create(dir.path()).unwrap_err();
        assert!(
            matches!(error, LocalServerError::KeyExposed { mode: 0o640, .. }),
            "{error}"
        );
    }
}
