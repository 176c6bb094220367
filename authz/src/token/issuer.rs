use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jwt_simple::prelude::{Claims as JwtClaims, Ed25519KeyPair, EdDSAKeyPairLike, UnixTimeStamp};
use natterjack_nats_config::contract::Principal;

use super::{AUDIENCE, ISSUER};

/// The longest a token of the local issuer is good for: a year, for devices. People's should be hours.
pub const MAX_TTL: Duration = Duration::from_hours(8784);

const PRIVATE: &str = "token.key";
const PUBLIC: &str = "token.pub";

/// The local issuer: signs tokens (EdDSA, Ed25519) for development and devices.
pub struct Issuer {
    key: Ed25519KeyPair,
}

/// What a token of ours says beyond the registered claims.
#[derive(serde::Serialize, serde::Deserialize)]
struct Claims {
    tenant: natterjack_nats_config::Id,
}

/// A token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A key file cannot be read or written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others can read the private key.
    #[error("the key {path} has mode {mode:03o}, others can read it; run: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no key.
    #[error("{path} holds no Ed25519 private key in PEM form", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The time asked for is too long.
    #[error("a token may be good for at most 366 days")]
    Ttl,
    /// Signing failed.
    #[error("the token cannot be signed: {0}")]
    Sign(String),
}

impl Issuer {
    /// Reads the key of a folder, `token.key`.
    pub fn load(dir: &Path) -> Result<Self, IssuerError> {
        let path = dir.join(PRIVATE);
        let file = |source| IssuerError::File {
            what: "read",
            path: path.clone(),
            source,
        };
        let mode = fs::metadata(&path).map_err(file)?.permissions().mode() & 0o777;
        if mode.trailing_zeros() < 6 {
            return Err(IssuerError::Exposed { path, mode });
        }
        let pem = fs::read_to_string(&path).map_err(file)?;
        let key = Ed25519KeyPair::from_pem(&pem).map_err(|_| IssuerError::Key { path: path.clone() })?;
        Ok(Self { key })
    }

    /// Reads the key of a folder, making it (`token.key`, mode 0600, and `token.pub`) when it is missing.
    pub fn load_or_create(dir: &Path) -> Result<Self, IssuerError> {
        let path = dir.join(PRIVATE);
        if !path.exists() {
            write_new(&path, &Ed25519KeyPair::generate().to_pem())?;
        }
        let issuer = Self::load(dir)?;
        let public = dir.join(PUBLIC);
        if fs::read_to_string(&public).ok() != Some(issuer.public_pem()) {
            let write = || {
                let part = public.with_extension(format!("{}.part", uuid::Uuid::now_v7()));
                fs::write(&part, issuer.public_pem())?;
                fs::rename(part, &public)
            };
            write().map_err(|source| IssuerError::File {
                what: "write",
                path: public.clone(),
                source,
            })?;
        }
        Ok(issuer)
    }

    /// The public key, for those who verify.
    #[must_use]
    pub fn public_pem(&self) -> String {
        self.key.public_key().to_pem()
    }

    /// Signs a token: `iss`, `aud`, `sub` (the user), `tenant`, `iat`, `exp`, `jti`.
    pub fn issue(&self, who: &Principal, ttl: Duration, now_ms: i64) -> Result<String, IssuerError> {
        if ttl > MAX_TTL {
            return Err(IssuerError::Ttl);
        }
        let now = UnixTimeStamp::from_millis(u64::try_from(now_ms).unwrap_or_default());
        let mut claims = JwtClaims::with_custom_claims(
            Claims {
                tenant: who.tenant.clone(),
            },
            ttl.into(),
        )
        .with_issuer(ISSUER)
        .with_audience(AUDIENCE)
        .with_subject(&who.user)
        .with_jwt_id(uuid::Uuid::now_v7());
        (claims.issued_at, claims.invalid_before) = (Some(now), None);
        claims.expires_at = Some(now + ttl.into());
        self.key
            .sign(claims)
            .map_err(|error| IssuerError::Sign(error.to_string()))
    }
}

/// Writes a file that only its owner reads, whole; when two do it at once, the first one stays.
fn write_new(path: &Path, text: &str) -> Result<(), IssuerError> {
    let part = path.with_extension(format!("{}.part", uuid::Uuid::now_v7()));
    let write = || {
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&part, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::remove_file(&part),
        }
    };
    write().map_err(|source| IssuerError::File {
        what: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        Issuer::load_or_create(folder.path()).unwrap();
        let load = |mode: u32| {
            fs::set_permissions(folder.path().join(PRIVATE), fs::Permissions::from_mode(mode)).unwrap();
            Issuer::load(folder.path()).map(|_| ())
        };
        for own in [0o600, 0o400, 0o700] {
            load(own).unwrap();
        }
        for open in [0o644, 0o640, 0o604, 0o620, 0o610] {
            assert!(
                matches!(load(open), Err(IssuerError::Exposed { mode, .. }) if mode == open),
                "{open:o}"
            );
        }
    }

    #[test]
    fn a_token_is_good_for_as_long_as_it_may_be_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::load_or_create(folder.path()).unwrap();
        let who = Principal {
            tenant: "main".parse().unwrap(),
            user: "bob".parse().unwrap(),
        };
        issuer.issue(&who, MAX_TTL, 0).unwrap();
        let longer = issuer.issue(&who, MAX_TTL + Duration::from_millis(1), 0);
        assert!(matches!(longer, Err(IssuerError::Ttl)));
    }

    #[test]
    fn of_two_that_make_a_key_at_once_the_first_ones_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PRIVATE);
        write_new(&path, "first").unwrap();
        write_new(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing else is left there"
        );
        // A name that no file can have: what was written under another one cannot get it.
        let unfit = write_new(&folder.path().join("key/"), "third");
        assert!(matches!(unfit, Err(IssuerError::File { what: "write", .. })));
    }
}
