//! The settings of issuers, as they stand in the configuration, and what is made of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use natterjack_nats_config::Id;
use natterjack_nats_config::contract::MAX_ISSUER_BYTES;
use serde::{Deserialize, Serialize};

use super::claims::{MAX_ROLE_VALUE_BYTES, Mapping, RolesFrom, TenantFrom};
use super::fetch::{Fetcher, Place, check_address};
use super::key::{Algorithm, Key, Material};
use super::key_set::Lifetimes;
use super::remote::{Remote, Times};
use super::trust::{Keys, Trust};
use crate::policy::BLOCKED;

/// The shortest secret for HMAC, in bytes: what HS256 puts out (RFC 7518, section 3.2).
const MIN_SECRET: usize = 32;
/// The most values of a claim that mean something here: each login looks through them.
const MAX_MEANINGS: usize = 200;
/// The longest prefix of ids, in bytes: what is left of 64 beside a hashed name.
const MAX_PREFIX: usize = 20;

/// One issuer of tokens (`[[issuers]]`). `natterjack.default.toml` says what each setting means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// A token must be for one of these (`aud`).
    pub audiences: Vec<String>,
    /// A token must be signed by one of these.
    pub algorithms: Vec<Algorithm>,
    /// Get the keys by `OpenID` Connect Discovery from the issuer's address.
    #[serde(default)]
    pub discovery: bool,
    /// Get the keys from this JWKS document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The one key, as a file: a public key in PEM form, or a secret for HS algorithms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Certificate authorities to trust where the keys are fetched, in PEM form; without, the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// All its users are of this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Id>,
    /// Or this claim names the tenant, one of `tenants`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_claim: Option<String>,
    /// The tenants that the issuer may speak for, with `tenant_claim`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<Id>,
    /// The claim that names the user.
    #[serde(default = "sub")]
    pub user_claim: String,
    /// What stands before the name in the user's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_prefix: String,
    /// The `typ` that a token's header must have; without, `JWT`, any `…+jwt` or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typ: Option<String>,
    /// The clients whose tokens are good, by `azp` or `client_id`; without, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorized_parties: Vec<String>,
    /// The claim that says what role its users have in the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles_claim: Option<String>,
    /// Which of its values mean which role, with `roles_claim`: the first that is there counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleMeaning>,
    /// The role of those for whom none is there; without, none is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Id>,
    /// How often keys are fetched, in seconds.
    #[serde(default = "refresh_secs")]
    pub refresh_secs: u64,
    /// How often at most they are fetched for a key that is not known, in seconds.
    #[serde(default = "unknown_key_secs")]
    pub unknown_key_secs: u64,
    /// How long a key stays good that is not among those fetched any more, in seconds.
    #[serde(default = "grace_secs")]
    pub grace_secs: u64,
    /// How long keys stay good that cannot be fetched again, in seconds.
    #[serde(default = "stale_secs")]
    pub stale_secs: u64,
}

/// What a value of the claim of roles means here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleMeaning {
    /// The value, exactly.
    pub value: String,
    /// The role in the tenant.
    pub role: Id,
}

/// The settings of an issuer that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`issuers`, {issuer}: {problem}")]
pub struct SettingsError {
    /// Which one.
    pub issuer: String,
    /// What is wrong.
    pub problem: SettingsProblem,
}

/// What is wrong with the settings of an issuer.
#[derive(Debug, thiserror::Error)]
pub enum SettingsProblem {
    /// A setting is missing or does not fit others.
    #[error("{0}")]
    Rule(&'static str),
    /// An address cannot be used.
    #[error("the address {url}: {why}")]
    Address {
        /// The address.
        url: String,
        /// Why.
        why: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Certificates(#[source] Box<ureq::Error>),
}

impl IssuerSettings {
    /// Checks the settings and reads their files. Nothing is fetched yet.
    pub(super) fn open(&self) -> Result<Trust, SettingsError> {
        self.trust().map_err(|problem| SettingsError {
            issuer: self.issuer.clone(),
            problem,
        })
    }

    fn trust(&self) -> Result<Trust, SettingsProblem> {
        self.check()?;
        Ok(Trust {
            issuer: self.issuer.clone(),
            audiences: self.audiences.iter().cloned().collect(),
            algorithms: self.algorithms.clone(),
            typ: self.typ.clone(),
            mapping: Mapping {
                user_claim: self.user_claim.clone(),
                user_prefix: self.user_prefix.clone(),
                hashes_names: true,
                tenant: self.tenant_from()?,
                authorized_parties: self.authorized_parties.clone(),
                roles: self.roles_from()?,
            },
            keys: self.keys()?,
        })
    }

    fn check(&self) -> Result<(), SettingsProblem> {
        let symmetric = self
            .algorithms
            .iter()
            .filter(|algorithm| algorithm.is_symmetric())
            .count();
        let unfit_prefix = self.user_prefix.len() > MAX_PREFIX
            || (!self.user_prefix.is_empty() && self.user_prefix.parse::<Id>().is_err());
        let rules = [
            (self.issuer.is_empty(), "`issuer` is empty"),
            (self.issuer == super::ISSUER, "`natterjack` is the local issuer's name"),
            (
                self.audiences.is_empty() || self.audiences.iter().any(String::is_empty),
                "`audiences` must name who its tokens are for: without that, tokens for other services would be good here",
            ),
            (
                self.algorithms.is_empty(),
                "`algorithms` is empty: name the ones that it signs by, e.g. [\"RS256\"]",
            ),
            (
                symmetric != 0 && symmetric != self.algorithms.len(),
                "`algorithms` mixes HS with others: whoever knows a public key could sign with it",
            ),
            (unfit_prefix, "`user_prefix` may have at most 20 of A-Z a-z 0-9 _ -"),
            (self.user_claim.is_empty(), "`user_claim` is empty"),
            (
                self.refresh_secs == 0 || self.unknown_key_secs == 0,
                "`refresh_secs` and `unknown_key_secs` must be at least 1",
            ),
            (
                self.stale_secs <= self.refresh_secs,
                "`stale_secs` must be more than `refresh_secs`, or keys end between two fetches",
            ),
        ];
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, rule)) => Err(SettingsProblem::Rule(rule)),
            None => Ok(()),
        }
    }

    fn tenant_from(&self) -> Result<TenantFrom, SettingsProblem> {
        match (&self.tenant, &self.tenant_claim) {
            (Some(tenant), None) if self.tenants.is_empty() => Ok(TenantFrom::Fixed(tenant.clone())),
            (None, Some(name)) if !name.is_empty() && !self.tenants.is_empty() => Ok(TenantFrom::Claim {
                name: name.clone(),
                among: Some(self.tenants.clone()),
            }),
            _ => Err(SettingsProblem::Rule(
                "give either `tenant`, or `tenant_claim` with the `tenants` that it may name",
            )),
        }
    }

    fn roles_from(&self) -> Result<Option<RolesFrom>, SettingsProblem> {
        let Some(claim) = self.roles_claim.clone() else {
            return if self.roles.is_empty() && self.otherwise.is_none() {
                Ok(None)
            } else {
                Err(SettingsProblem::Rule("`roles` and `otherwise` need `roles_claim`"))
            };
        };
        let roles = self.roles.iter().map(|meaning| &meaning.role).chain(&self.otherwise);
        let is_unfit = |meaning: &RoleMeaning| meaning.value.is_empty() || meaning.value.len() > MAX_ROLE_VALUE_BYTES;
        let rules = [
            (
                claim.is_empty() || self.roles.is_empty(),
                "`roles_claim` needs `roles`: which values mean which role, [{ value = \"…\", role = \"…\" }]",
            ),
            (
                self.roles.iter().any(is_unfit) || self.roles.len() > MAX_MEANINGS,
                "`roles` may have 200 values of 1 to 256 bytes",
            ),
            (
                roles.into_iter().any(|role| role.as_str() == BLOCKED),
                "nobody is `blocked` by a claim: have the issuer make no tokens for them",
            ),
            (
                self.issuer.len() > MAX_ISSUER_BYTES,
                "an `issuer` whose tokens claim roles may have 256 bytes",
            ),
        ];
        if let Some((_, rule)) = rules.into_iter().find(|(broken, _)| *broken) {
            return Err(SettingsProblem::Rule(rule));
        }
        let means = self.roles.iter();
        Ok(Some(RolesFrom {
            claim,
            means: means.map(|one| (one.value.clone(), one.role.clone())).collect(),
            otherwise: self.otherwise.clone(),
        }))
    }

    fn keys(&self) -> Result<Keys, SettingsProblem> {
        let address = |url: &str| {
            check_address(url).map_err(|why| SettingsProblem::Address {
                url: url.to_owned(),
                why,
            })
        };
        match (&self.key_file, &self.jwks_url, self.discovery) {
            (Some(path), None, false) => Ok(Keys::Fixed(vec![self.key(path)?])),
            (None, Some(url), false) => self.remote(Place::Jwks(address(url)?)),
            (None, None, true) => self.remote(Place::Discovery(address(&self.issuer)?)),
            _ => Err(SettingsProblem::Rule(
                "give exactly one of `key_file`, `jwks_url` and `discovery = true`",
            )),
        }
    }

    fn key(&self, path: &Path) -> Result<Key, SettingsProblem> {
        let bytes = read(path)?;
        let is_secret = self.algorithms.iter().all(|algorithm| algorithm.is_symmetric());
        let material = if is_secret {
            // An editor's line end is no part of it.
            let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            if secret.len() < MIN_SECRET {
                return Err(SettingsProblem::Rule(
                    "the secret in `key_file` is shorter than 32 bytes",
                ));
            }
            if secret.starts_with(b"-----BEGIN") {
                return Err(SettingsProblem::Rule(
                    "`key_file` holds a key in PEM form, which is no secret for HS",
                ));
            }
            Material::Secret(secret.to_vec())
        } else {
            Material::Pem(String::from_utf8_lossy(&bytes).into_owned())
        };
        Key::new(None, &material, &self.algorithms).ok_or(SettingsProblem::Rule(
            "`key_file` holds no public key in PEM form that fits `algorithms` (RSA: 2048 bits or more)",
        ))
    }

    fn remote(&self, place: Place) -> Result<Keys, SettingsProblem> {
        if self.algorithms.iter().any(|algorithm| algorithm.is_symmetric()) {
            return Err(SettingsProblem::Rule(
                "HS algorithms need `key_file`: a secret is not published",
            ));
        }
        let roots = self.ca_file.as_ref().map(|path| read(path)).transpose()?;
        let fetcher = Fetcher::new(&self.issuer, place, &self.algorithms, roots.as_deref())
            .map_err(|error| SettingsProblem::Certificates(Box::new(error)))?;
        let secs = Duration::from_secs;
        let lifetimes = Lifetimes {
            grace: secs(self.grace_secs),
            stale: secs(self.stale_secs),
        };
        let times = Times {
            refresh: secs(self.refresh_secs),
            unknown: secs(self.unknown_key_secs),
        };
        Ok(Keys::Remote(Box::new(Remote::new(
            self.issuer.clone(),
            fetcher,
            lifetimes,
            times,
        ))))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SettingsProblem> {
    std::fs::read(path).map_err(|source| SettingsProblem::File {
        path: path.to_owned(),
        source,
    })
}

fn sub() -> String {
    "sub".to_owned()
}

fn refresh_secs() -> u64 {
    300
}

fn unknown_key_secs() -> u64 {
    10
}

fn grace_secs() -> u64 {
    60
}

fn stale_secs() -> u64 {
    3600
}
