//! JWTs as nats-server speaks them: `ed25519-nkey`, signed by an nkey.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// A JWT that cannot be read, is not signed by its issuer, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwtError {
    #[error("the JWT is not well-formed: {0}")]
    Form(&'static str),
    #[error("the JWT's claims cannot be read: {0}")]
    Claims(#[from] serde_json::Error),
    #[error("the JWT's signature is wrong: {0}")]
    Signature(#[from] nkeys::error::Error),
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    iss: String,
    iat: i64,
    jti: String,
    #[serde(flatten)]
    claims: &'a T,
}

#[derive(serde::Deserialize)]
struct Issuer {
    iss: String,
}

/// Signs claims.
pub(crate) fn encode<T: Serialize>(claims: &T, key: &KeyPair, now_s: i64) -> Result<String, JwtError> {
    let jti = URL_SAFE_NO_PAD.encode(Sha256::digest(serde_json::to_vec(claims)?));
    let envelope = Envelope {
        iss: key.public_key(),
        iat: now_s,
        jti,
        claims,
    };
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&envelope)?);
    let signed = format!("{header}.{body}");
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

/// Reads claims that a server signed.
pub(crate) fn decode<T: DeserializeOwned>(token: &str) -> Result<T, JwtError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Form("no signature"))?;
    let (_, body) = signed.split_once('.').ok_or(JwtError::Form("no claims"))?;
    let body = URL_SAFE_NO_PAD
        .decode(body)
        .map_err(|_| JwtError::Form("claims are no base64url"))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| JwtError::Form("signature is no base64url"))?;
    let issuer: Issuer = serde_json::from_slice(&body)?;
    if !issuer.iss.starts_with('N') {
        return Err(JwtError::Form("not issued by a server"));
    }
    KeyPair::from_public_key(&issuer.iss)?.verify(signed.as_bytes(), &signature)?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_a_server_signs_is_read_and_nothing_else() {
        let server = KeyPair::new_server();
        let token = encode(&json!({"sub": "x"}), &server, 7).unwrap();
        let claims: Value = decode(&token).unwrap();
        assert_eq!(
            (&claims["sub"], &claims["iat"], &claims["iss"]),
            (&json!("x"), &json!(7), &json!(server.public_key()))
        );
        let (head, _) = token.rsplit_once('.').unwrap();
        let other = encode(&json!({"sub": "y"}), &server, 7).unwrap();
        let bad = [
            format!("{head}.{}", other.rsplit_once('.').unwrap().1),
            format!("{head}."),
            head.to_owned(),
            String::new(),
            encode(&json!({}), &KeyPair::new_user(), 7).unwrap(),
        ];
        for token in bad {
            assert!(decode::<Value>(&token).is_err(), "{token}");
        }
    }
}
