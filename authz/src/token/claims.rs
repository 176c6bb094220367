//! From what a token says to who somebody is here. Pure.

use std::fmt;

use jwt_simple::prelude::{JWTClaims, UnixTimeStamp};
use natterjack_nats_config::Id;
use natterjack_nats_config::contract::Principal;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::verifier::{ClaimedRole, Session, TokenError};
use crate::policy::MAX_LIFETIME_MS;

/// How far a clock may be off where a token is from the future (`iat`, `nbf`), in milliseconds. `exp` has no leeway.
pub const LEEWAY_MS: i64 = 5000;

/// What ids made by hashing begin with. A name that is given as such and begins with it is hashed too, so that nobody can
/// choose a name that is another one's hash.
const HASHED: &str = "h-";

/// The most values that a claim of roles may have, and how long each may be, in bytes: a token has 8 KiB.
const MAX_ROLE_VALUES: usize = 500;
pub(super) const MAX_ROLE_VALUE_BYTES: usize = 256;

/// The claims beyond the registered ones, each named once.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Extra(pub(super) Map<String, Value>);

/// Which claims say who somebody is.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    /// The claim of the user's name; `sub` in most cases.
    pub(super) user_claim: String,
    /// What stands before it in ids.
    pub(super) user_prefix: String,
    /// Whether names that are no ids get one by hashing; else they are refused.
    pub(super) hashes_names: bool,
    /// Where the tenant comes from.
    pub(super) tenant: TenantFrom,
    /// The clients (`azp`, or `client_id`) whose tokens are good; empty for all.
    pub(super) authorized_parties: Vec<String>,
    /// Which claim says what role the user has in the tenant, if any does.
    pub(super) roles: Option<RolesFrom>,
}

/// Which claim says what role a user has in the tenant.
#[derive(Debug, Clone)]
pub(super) struct RolesFrom {
    /// Its name: a list of texts, or one text.
    pub(super) claim: String,
    /// Which of its values mean which role; the first that is there counts.
    pub(super) means: Vec<(String, Id)>,
    /// The role of those for whom none is there.
    pub(super) otherwise: Option<Id>,
}

#[derive(Debug, Clone)]
pub(super) enum TenantFrom {
    /// All the issuer's users are of one tenant.
    Fixed(Id),
    /// A claim names one of these; of any where there is no list.
    Claim { name: String, among: Option<Vec<Id>> },
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Unique)
    }
}

/// Reads a map and refuses a name that comes twice: two readers could take different ones.
struct Unique;

impl<'de> Visitor<'de> for Unique {
    type Value = Extra;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims, each named once")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Extra, A::Error> {
        let mut claims = Map::new();
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            if claims.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a claim is given twice"));
            }
        }
        Ok(Extra(claims))
    }
}

impl Mapping {
    /// Judges what jwt-simple does not, and says who it is. `issuer` makes hashed ids of different issuers differ.
    pub(super) fn session(&self, issuer: &str, claims: JWTClaims<Extra>, now_ms: i64) -> Result<Session, TokenError> {
        let (issued_at_ms, expires_at_ms) = times(&claims, now_ms)?;
        self.check_party(&claims)?;
        let user = self.user(issuer, &claims)?;
        let tenant = self.tenant(&claims)?;
        let claimed = match &self.roles {
            Some(roles) => Some(ClaimedRole {
                issuer: issuer.into(),
                role: roles.role(&claims)?,
            }),
            None => None,
        };
        Ok(Session {
            principal: Principal { tenant, user },
            claimed,
            token_id: claims.jwt_id,
            issued_at_ms,
            expires_at_ms,
        })
    }

    fn user(&self, issuer: &str, claims: &JWTClaims<Extra>) -> Result<Id, TokenError> {
        let name = text(claims, &self.user_claim)?;
        let plain: Result<Id, _> = format!("{}{name}", self.user_prefix).parse();
        match plain {
            Ok(id) if !self.hashes_names || !name.starts_with(HASHED) => Ok(id),
            Err(error) if !self.hashes_names => Err(TokenError::Invalid(format!("`{}`: {error}", self.user_claim))),
            _ => hashed_id(&self.user_prefix, issuer, name),
        }
    }

    fn tenant(&self, claims: &JWTClaims<Extra>) -> Result<Id, TokenError> {
        let (name, among) = match &self.tenant {
            TenantFrom::Fixed(tenant) => return Ok(tenant.clone()),
            TenantFrom::Claim { name, among } => (name, among),
        };
        let tenant: Id = text(claims, name)?
            .parse()
            .map_err(|error| TokenError::Invalid(format!("`{name}`: {error}")))?;
        if among.as_ref().is_some_and(|among| !among.contains(&tenant)) {
            return Err(TokenError::Invalid(format!(
                "the issuer may not speak for the tenant {tenant}"
            )));
        }
        Ok(tenant)
    }

    /// RFC 9068 calls it `client_id`, `OpenID` Connect `azp`. Where both stand there they must agree with the list both.
    fn check_party(&self, claims: &JWTClaims<Extra>) -> Result<(), TokenError> {
        if self.authorized_parties.is_empty() {
            return Ok(());
        }
        let mut parties = ["azp", "client_id"]
            .iter()
            .filter_map(|name| claims.custom.0.get(*name))
            .peekable();
        let known = |party: &Value| {
            party
                .as_str()
                .is_some_and(|party| self.authorized_parties.iter().any(|known| known == party))
        };
        if parties.peek().is_none() || !parties.all(known) {
            return Err(TokenError::Invalid(
                "`azp` or `client_id` is none of those listed".to_owned(),
            ));
        }
        Ok(())
    }
}

impl RolesFrom {
    /// The role that a token claims. A claim that is not there names none; one that is no list of short texts makes the token
    /// unacceptable, because what it was to take away would stay.
    fn role(&self, claims: &JWTClaims<Extra>) -> Result<Option<Id>, TokenError> {
        let values = self.values(claims)?;
        let named = |(value, _): &&(String, Id)| values.contains(&value.as_str());
        let meant = self.means.iter().find(named).map(|(_, role)| role);
        Ok(meant.or(self.otherwise.as_ref()).cloned())
    }

    fn values<'a>(&self, claims: &'a JWTClaims<Extra>) -> Result<Vec<&'a str>, TokenError> {
        let unfit = |why: &str| TokenError::Invalid(format!("`{}` {why}", self.claim));
        let values = match found(claims, &self.claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(values)) => {
                let texts = values.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
                texts.ok_or_else(|| unfit("has a value that is no text"))?
            }
            Some(_) => return Err(unfit("is no list of texts")),
        };
        if values.len() > MAX_ROLE_VALUES {
            return Err(unfit("has too many values"));
        }
        if values.iter().any(|value| value.len() > MAX_ROLE_VALUE_BYTES) {
            return Err(unfit("has a value that is too long"));
        }
        Ok(values)
    }
}

/// The id for a name that is none: the prefix, `h-`, and 160 bits of a hash of issuer and name, in hexadecimal.
fn hashed_id(prefix: &str, issuer: &str, name: &str) -> Result<Id, TokenError> {
    let mut hash = Sha256::new();
    for part in [issuer, name] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let digits = hash
        .iter()
        .take(20)
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("{prefix}{HASHED}{digits}")
        .parse()
        .map_err(|error| TokenError::Invalid(format!("the user's id: {error}")))
}

fn times(claims: &JWTClaims<Extra>, now_ms: i64) -> Result<(i64, i64), TokenError> {
    let missing = |claim: &str| TokenError::Invalid(format!("`{claim}` is missing"));
    let ms = |time: UnixTimeStamp| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let expires_at_ms = ms(claims.expires_at.ok_or_else(|| missing("exp"))?);
    let issued_at_ms = ms(claims.issued_at.ok_or_else(|| missing("iat"))?);
    if claims.issuer.is_none() {
        return Err(missing("iss"));
    }
    let is_given = |audiences: &jwt_simple::claims::Audiences| audiences.is_set() || audiences.is_string();
    if !claims.audiences.as_ref().is_some_and(is_given) {
        return Err(missing("aud"));
    }
    for (claim, time) in [("iat", Some(issued_at_ms)), ("nbf", claims.invalid_before.map(ms))] {
        if time.is_some_and(|time| time > now_ms + LEEWAY_MS) {
            return Err(TokenError::Invalid(format!("`{claim}` is in the future")));
        }
    }
    // So that the revocation of one token need not be remembered for ever.
    Ok((
        issued_at_ms,
        expires_at_ms.min(issued_at_ms.saturating_add(MAX_LIFETIME_MS)),
    ))
}

/// The text of a claim: of `sub`, or of one that is [`found`].
fn text<'a>(claims: &'a JWTClaims<Extra>, name: &str) -> Result<&'a str, TokenError> {
    let text = if name == "sub" {
        claims.subject.as_deref()
    } else {
        found(claims, name).and_then(Value::as_str)
    };
    match text {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(TokenError::Invalid(format!("`{name}` is missing"))),
    }
}

/// A claim by its name, or with a leading slash one inside others (RFC 6901).
fn found<'a>(claims: &'a JWTClaims<Extra>, name: &str) -> Option<&'a Value> {
    if let Some((first, rest)) = name
        .strip_prefix('/')
        .map(|path| path.split_once('/').unwrap_or((path, "")))
    {
        let first = claims.custom.0.get(first);
        let rest = if rest.is_empty() {
            String::new()
        } else {
            format!("/{rest}")
        };
        return first?.pointer(&rest);
    }
    claims.custom.0.get(name)
}
