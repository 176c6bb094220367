//! JSON Web Key Sets (RFC 7517), as identity providers publish them. Pure.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::key::{Algorithm, Curve, Key, Material};

/// The most keys of a set that are looked at: providers have two or three, the large ones a dozen.
const MAX_KEYS: usize = 64;

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The members that are read. `jku`, `x5u` and `x5c` are not: a key is what stands in `n`, `e`, `x` and `y`.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

/// The keys of a set that may check signatures by one of the algorithms. Keys for anything else are passed over, and so are
/// malformed ones: one bad key must not take the others with it. Shared secrets are never taken from a set.
pub(super) fn read_set(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<Key>, serde_json::Error> {
    let set: Set = serde_json::from_slice(bytes)?;
    let keys = set.keys.into_iter().take(MAX_KEYS);
    Ok(keys
        .filter_map(|key| read(&serde_json::from_value(key).ok()?, algorithms))
        .collect())
}

fn read(jwk: &Jwk, algorithms: &[Algorithm]) -> Option<Key> {
    let signs = jwk.usage.as_deref().is_none_or(|usage| usage == "sig");
    let verifies = jwk
        .key_ops
        .as_ref()
        .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !signs || !verifies {
        return None;
    }
    let only = match &jwk.alg {
        Some(name) => Some(Algorithm::parse(name)?),
        None => None,
    };
    let algorithms: Vec<Algorithm> = algorithms
        .iter()
        .copied()
        .filter(|algorithm| only.is_none_or(|only| only == *algorithm))
        .collect();
    Key::new(jwk.kid.clone(), &material(jwk)?, &algorithms)
}

fn material(jwk: &Jwk) -> Option<Material> {
    let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
    match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => Some(Material::Rsa {
            n: part(&jwk.n)?,
            e: part(&jwk.e)?,
        }),
        ("EC", Some("P-256")) => point(Curve::P256, 32, &part(&jwk.x)?, &part(&jwk.y)?),
        ("EC", Some("P-384")) => point(Curve::P384, 48, &part(&jwk.x)?, &part(&jwk.y)?),
        ("OKP", Some("Ed25519")) => Some(Material::Ed25519(part(&jwk.x)?)),
        _ => None,
    }
}

fn point(curve: Curve, length: usize, x: &[u8], y: &[u8]) -> Option<Material> {
    let bytes = [&[4], x, y].concat();
    (x.len() == length && y.len() == length).then_some(Material::Point { curve, bytes })
}

#[cfg(test)]
mod tests {
    use jwt_simple::prelude::{ES256KeyPair, ES384KeyPair, Ed25519KeyPair, RS256KeyPair};
    use serde_json::{Value, json};

    use super::*;

    fn with(mut jwk: Value, more: &Value) -> Value {
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    #[test]
    fn a_set_gives_the_keys_that_may_check_signatures_and_no_others() {
        let jwk = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let rsa = jwk(RS256KeyPair::from_pem(crate::token::tests::RSA)
            .unwrap()
            .public_key()
            .to_jwk());
        let ec = jwk(ES256KeyPair::generate().public_key().to_jwk());
        let ec384 = jwk(ES384KeyPair::generate().public_key().to_jwk());
        let ed = jwk(Ed25519KeyPair::generate().public_key().to_jwk());
        let set = json!({"keys": [
            with(rsa.clone(), &json!({"kid": "rsa", "alg": "RS256", "use": "sig"})),
            with(ec.clone(), &json!({"kid": "ec"})),
            with(ec384, &json!({"kid": "ec384"})),
            with(ed, &json!({"kid": "ed", "key_ops": ["verify"]})),
            with(rsa.clone(), &json!({"kid": "for encryption", "use": "enc"})),
            with(ec.clone(), &json!({"kid": "to sign", "key_ops": ["sign"]})),
            with(rsa, &json!({"kid": "for OAEP", "alg": "RSA-OAEP"})),
            with(ec, &json!({"kid": "cut off", "x": "AAAA"})),
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
            {"kty": "RSA", "kid": "small", "n": "u1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0_IzW7yWR7QkrmBL7jTKEn5u-qKhbwKfBstI", "e": "AQAB"},
            "no key",
            {"kid": "of no type"},
        ]});
        let all = [
            Algorithm::RS256,
            Algorithm::PS256,
            Algorithm::ES256,
            Algorithm::ES384,
            Algorithm::EdDSA,
            Algorithm::HS256,
        ];
        let keys = read_set(set.to_string().as_bytes(), &all).unwrap();
        let names: Vec<_> = keys.iter().map(|key| key.id.as_deref().unwrap()).collect();
        assert_eq!(names, ["rsa", "ec", "ec384", "ed"]);
        assert!(
            keys[0].fits(Algorithm::RS256) && !keys[0].fits(Algorithm::PS256),
            "`alg` of the key is held"
        );
        assert!(keys.iter().all(|key| !key.fits(Algorithm::HS256)));
        assert_eq!(
            read_set(set.to_string().as_bytes(), &[Algorithm::PS256]).unwrap().len(),
            0
        );
        assert!(read_set(b"{}", &all).is_err());
    }
}
