//! Fetches the keys of an identity provider over HTTP(S).

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, http::StatusCode};
use url::{Host, Url};

use super::jwk::read_set;
use super::key::{Algorithm, Key};

/// The largest answer that is read, in bytes. Key sets have some KiB; this is room for sixty large RSA keys with certificates.
const MAX_ANSWER: u64 = 256 * 1024;
/// How long a whole request may take. Below the server's patience with a callout (5 s), so that somebody who waits for a new
/// key can still be let in.
const WITHIN: Duration = Duration::from_secs(3);
/// Where `OpenID` Connect Discovery 1.0 (section 4) keeps a provider's configuration, below the issuer.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Where keys are got.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A JWKS document.
    Jwks(Url),
    /// The `OpenID` Connect configuration of this issuer, which names a JWKS document.
    Discovery(Url),
}

/// Gets keys. Cheap to clone.
#[derive(Clone)]
pub(super) struct Fetcher {
    agent: Agent,
    place: Place,
    issuer: String,
    algorithms: Vec<Algorithm>,
}

/// Keys cannot be got.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub(super) struct FetchError {
    url: String,
    problem: FetchProblem,
}

/// Why keys cannot be got from an address.
#[derive(Debug, thiserror::Error)]
enum FetchProblem {
    #[error(transparent)]
    Http(Box<ureq::Error>),
    /// Also a redirect: none is followed, so that a provider cannot send us to addresses of the inside.
    #[error("the answer is {0}, not 200")]
    Status(StatusCode),
    #[error("the answer is no JSON of the expected form: {0}")]
    Form(#[from] serde_json::Error),
    #[error("this is the configuration of the issuer {0:?}, not of this one")]
    OtherIssuer(String),
    #[error("the keys' address {found:?} in the configuration: {why}")]
    KeysAddress { found: String, why: &'static str },
    #[error("no key for the algorithms of this issuer is there")]
    NoKeys,
}

#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// `roots`: the certificate authorities to trust, in PEM form; none for the public ones.
    pub(super) fn new(
        issuer: &str,
        place: Place,
        algorithms: &[Algorithm],
        roots: Option<&[u8]>,
    ) -> Result<Self, ureq::Error> {
        let url = match &place {
            Place::Jwks(url) | Place::Discovery(url) => url,
        };
        let local = is_local(url);
        let roots = match roots {
            Some(pem) => RootCerts::new_with_certs(&certificates(pem)?),
            None => RootCerts::WebPki,
        };
        let mut config = Agent::config_builder()
            .timeout_global(Some(WITHIN))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .https_only(!local)
            .max_idle_connections(0)
            .user_agent("natterjack")
            .tls_config(TlsConfig::builder().root_certs(roots).build());
        if local {
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            place,
            issuer: issuer.to_owned(),
            algorithms: algorithms.to_vec(),
        })
    }

    /// Gets the keys; blocks for at most two requests' time. At least one key, or it is an error.
    pub(super) fn fetch(&self) -> Result<Vec<Key>, FetchError> {
        let url = match &self.place {
            Place::Jwks(url) => url.clone(),
            Place::Discovery(issuer) => {
                let url = configuration_of(issuer);
                self.discover(issuer, &url).map_err(|problem| at(&url, problem))?
            }
        };
        self.keys(&url).map_err(|problem| at(&url, problem))
    }

    fn discover(&self, issuer: &Url, url: &Url) -> Result<Url, FetchProblem> {
        let found: Configuration = serde_json::from_slice(&self.get(url)?)?;
        // Section 4.3: it must be exactly the issuer that was asked.
        if found.issuer != self.issuer {
            return Err(FetchProblem::OtherIssuer(found.issuer));
        }
        let found = found.jwks_uri;
        keys_address(issuer, &found).map_err(|why| FetchProblem::KeysAddress { found, why })
    }

    fn keys(&self, url: &Url) -> Result<Vec<Key>, FetchProblem> {
        let keys = read_set(&self.get(url)?, &self.algorithms)?;
        if keys.is_empty() {
            return Err(FetchProblem::NoKeys);
        }
        Ok(keys)
    }

    fn get(&self, url: &Url) -> Result<Vec<u8>, FetchProblem> {
        let failed = |error| FetchProblem::Http(Box::new(error));
        let request = self.agent.get(url.as_str()).header("Accept", "application/json");
        let mut answer = request.call().map_err(failed)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchProblem::Status(answer.status()));
        }
        let mut body = Vec::new();
        let mut reader = answer.body_mut().with_config().limit(MAX_ANSWER).reader();
        reader.read_to_end(&mut body).map_err(|error| failed(error.into()))?;
        Ok(body)
    }
}

fn at(url: &Url, problem: FetchProblem) -> FetchError {
    FetchError {
        url: url.to_string(),
        problem,
    }
}

fn configuration_of(issuer: &Url) -> Url {
    let mut url = issuer.clone();
    url.set_path(&format!("{}{WELL_KNOWN}", issuer.path().trim_end_matches('/')));
    url
}

/// An address that a setting may name: https, or http on this machine, without a password in it.
pub(super) fn check_address(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is no URL")?;
    match url.scheme() {
        "https" => {}
        "http" if is_local(&url) => {}
        "http" => return Err("http is for this machine only (127.0.0.1, localhost), elsewhere it must be https"),
        _ => return Err("it must begin with https://"),
    }
    if url.host().is_none() || !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("it must have a host, and no user, password or fragment");
    }
    Ok(url)
}

/// The address of keys that a provider names. It may be on another host, as with the large ones, but not on one that only
/// somebody inside could mean, unless the provider is there itself.
fn keys_address(issuer: &Url, text: &str) -> Result<Url, &'static str> {
    let url = check_address(text)?;
    if url.host() == issuer.host() {
        return Ok(url);
    }
    let is_inside = match url.host() {
        // A bare address proves nothing about whose it is, public or not.
        Some(Host::Ipv4(_) | Host::Ipv6(_)) | None => true,
        Some(Host::Domain(name)) => is_local(&url) || is_internal(name.trim_end_matches('.')),
    };
    if is_inside {
        return Err("it is on another host than the issuer, and that is a bare or an internal address");
    }
    Ok(url)
}

fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name.trim_end_matches('.') == "localhost",
        None => false,
    }
}

/// Names that the public DNS does not have (RFC 6761, RFC 6762, the domain `internal` that ICANN has set aside), and those of
/// services in a Kubernetes cluster.
fn is_internal(name: &str) -> bool {
    let of = [".internal", ".local", ".localhost"];
    !name.contains('.') || of.iter().any(|end| name.ends_with(end))
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, ureq::Error> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item? {
            found.push(certificate);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_encrypted_or_on_this_machine() {
        for good in [
            "https://id.example/keys",
            "https://id.example:8443/a?b=c",
            "http://127.0.0.1:1/keys",
            "http://localhost/keys",
            "http://[::1]:9/keys",
        ] {
            check_address(good).unwrap();
        }
        for bad in [
            "http://id.example/keys",
            "http://10.0.0.1/keys",
            "http://localhost.example/keys",
            "http://127.0.0.1.example/",
            "ftp://id.example/",
            "file:///etc/passwd",
            "https://user@id.example/",
            "https://user:word@id.example/",
            "id.example/keys",
            "",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_provider_cannot_send_us_inside() {
        let issuer = Url::parse("https://id.example/realm").unwrap();
        for good in ["https://id.example/keys", "https://keys.example/set"] {
            keys_address(&issuer, good).unwrap();
        }
        for bad in [
            "https://10.0.0.1/keys",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/keys",
            "https://[fd00::1]/keys",
            "https://8.8.8.8/keys",
            "https://localhost/keys",
            "https://vault/keys",
            "https://localhost./keys",
            "https://metadata.google.internal/",
            "https://metadata.google.internal./",
            "https://vault.svc.cluster.local/keys",
            "http://127.0.0.1/keys",
            "http://keys.example/set",
        ] {
            assert!(keys_address(&issuer, bad).is_err(), "{bad}");
        }
        let inside = Url::parse("https://10.0.0.1/realm").unwrap();
        keys_address(&inside, "https://10.0.0.1/keys").unwrap();
    }
}
