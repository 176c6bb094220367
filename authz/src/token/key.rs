//! Public keys and secrets that tokens are checked with, each with the algorithms that it may be used for.

use jwt_simple::prelude::{
    ECDSAP256PublicKeyLike, ECDSAP384PublicKeyLike, ES256PublicKey, ES384PublicKey, Ed25519PublicKey,
    EdDSAPublicKeyLike, HS256Key, HS384Key, HS512Key, JWTClaims, MACLike, PS256PublicKey, PS384PublicKey,
    PS512PublicKey, RS256PublicKey, RS384PublicKey, RS512PublicKey, RSAPublicKeyLike, VerificationOptions,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::claims::Extra;

/// A signature algorithm of RFC 7518 or RFC 8037. There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the RFCs")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// What a key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// A shared secret.
    Secret(Vec<u8>),
    /// Modulus and exponent, big-endian.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// A point of P-256 or P-384, uncompressed (SEC 1).
    Point { curve: Curve, bytes: Vec<u8> },
    /// An Ed25519 public key.
    Ed25519(Vec<u8>),
    /// A public key in PEM form, of the family that the algorithm asks for.
    Pem(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

/// A key, ready to check tokens.
#[derive(Clone)]
pub(super) struct Key {
    /// Its name in its set (`kid`).
    pub(super) id: Option<String>,
    /// Tells keys apart, whatever they are called: a hash of what it is made of.
    pub(super) mark: [u8; 32],
    checkers: Vec<(Algorithm, Checker)>,
}

/// Declares [`Checker`]: a ready key of one algorithm, and how each is asked.
macro_rules! checkers {
    ($($algorithm:ident($key:ty)),* $(,)?) => {
        #[derive(Clone)]
        enum Checker {
            $($algorithm(Box<$key>),)*
        }

        impl Checker {
            fn verify(&self, token: &str, options: VerificationOptions) -> Result<JWTClaims<Extra>, jwt_simple::Error> {
                match self {
                    $(Self::$algorithm(key) => key.verify_token::<Extra>(token, Some(options)),)*
                }
            }
        }
    };
}

checkers! {
    HS256(HS256Key), HS384(HS384Key), HS512(HS512Key),
    RS256(RS256PublicKey), RS384(RS384PublicKey), RS512(RS512PublicKey),
    PS256(PS256PublicKey), PS384(PS384PublicKey), PS512(PS512PublicKey),
    ES256(ES256PublicKey), ES384(ES384PublicKey), EdDSA(Ed25519PublicKey),
}

impl Algorithm {
    /// The name in a token's header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// The algorithm of that name. `Ed25519` is what RFC 9864 calls `EdDSA` with that curve.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::HS256,
            Self::HS384,
            Self::HS512,
            Self::RS256,
            Self::RS384,
            Self::RS512,
            Self::PS256,
            Self::PS384,
            Self::PS512,
            Self::ES256,
            Self::ES384,
            Self::EdDSA,
        ]
        .into_iter()
        .find(|algorithm| algorithm.as_str() == name || (*algorithm == Self::EdDSA && name == "Ed25519"))
    }

    /// Whether it needs a shared secret.
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

impl Key {
    /// A key for those of the algorithms that it fits; `None` if it fits none, or is weak or malformed (RSA below 2048 bits).
    pub(super) fn new(id: Option<String>, material: &Material, algorithms: &[Algorithm]) -> Option<Self> {
        let checkers: Vec<_> = algorithms
            .iter()
            .filter_map(|algorithm| Some((*algorithm, checker(*algorithm, material)?)))
            .collect();
        (!checkers.is_empty()).then(|| Self {
            id,
            mark: material.mark(),
            checkers,
        })
    }

    /// Whether it may be used for an algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.checkers.iter().any(|(fitting, _)| *fitting == algorithm)
    }

    /// Checks a token's signature by exactly this algorithm, and its claims by the options.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        token: &str,
        options: VerificationOptions,
    ) -> Option<Result<JWTClaims<Extra>, jwt_simple::Error>> {
        let (_, checker) = self.checkers.iter().find(|(fitting, _)| *fitting == algorithm)?;
        Some(checker.verify(token, options))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Material {
    fn mark(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match self {
            Self::Secret(bytes) => [b"secret".as_slice(), bytes].into_iter().for_each(&mut part),
            Self::Rsa { n, e } => [b"rsa".as_slice(), n, e].into_iter().for_each(&mut part),
            Self::Point { bytes, .. } => [b"point".as_slice(), bytes].into_iter().for_each(&mut part),
            Self::Ed25519(bytes) => [b"ed25519".as_slice(), bytes].into_iter().for_each(&mut part),
            Self::Pem(text) => [b"pem".as_slice(), text.as_bytes()].into_iter().for_each(&mut part),
        }
        hash.finalize().into()
    }
}

fn checker(algorithm: Algorithm, material: &Material) -> Option<Checker> {
    match material {
        Material::Secret(secret) => of_secret(algorithm, secret),
        Material::Rsa { n, e } => of_rsa(algorithm, n, e),
        Material::Point { curve, bytes } => match (algorithm, curve) {
            (Algorithm::ES256, Curve::P256) => Some(Checker::ES256(Box::new(ES256PublicKey::from_bytes(bytes).ok()?))),
            (Algorithm::ES384, Curve::P384) => Some(Checker::ES384(Box::new(ES384PublicKey::from_bytes(bytes).ok()?))),
            _ => None,
        },
        Material::Ed25519(bytes) if algorithm == Algorithm::EdDSA => {
            Some(Checker::EdDSA(Box::new(Ed25519PublicKey::from_bytes(bytes).ok()?)))
        }
        Material::Ed25519(_) => None,
        Material::Pem(pem) => of_pem(algorithm, pem),
    }
}

fn of_secret(algorithm: Algorithm, secret: &[u8]) -> Option<Checker> {
    match algorithm {
        Algorithm::HS256 => Some(Checker::HS256(Box::new(HS256Key::from_bytes(secret)))),
        Algorithm::HS384 => Some(Checker::HS384(Box::new(HS384Key::from_bytes(secret)))),
        Algorithm::HS512 => Some(Checker::HS512(Box::new(HS512Key::from_bytes(secret)))),
        _ => None,
    }
}

/// A ready key of a type, boxed, where it can be made.
macro_rules! ready {
    ($algorithm:ident, $key:expr) => {
        Some(Checker::$algorithm(Box::new($key.ok()?)))
    };
}

fn of_rsa(algorithm: Algorithm, n: &[u8], e: &[u8]) -> Option<Checker> {
    match algorithm {
        Algorithm::RS256 => ready!(RS256, RS256PublicKey::from_components(n, e)),
        Algorithm::RS384 => ready!(RS384, RS384PublicKey::from_components(n, e)),
        Algorithm::RS512 => ready!(RS512, RS512PublicKey::from_components(n, e)),
        Algorithm::PS256 => ready!(PS256, PS256PublicKey::from_components(n, e)),
        Algorithm::PS384 => ready!(PS384, PS384PublicKey::from_components(n, e)),
        Algorithm::PS512 => ready!(PS512, PS512PublicKey::from_components(n, e)),
        _ => None,
    }
}

/// A PEM says itself which family it is of: one of another family is no key for the algorithm. It is never a secret.
fn of_pem(algorithm: Algorithm, pem: &str) -> Option<Checker> {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => None,
        Algorithm::RS256 => ready!(RS256, RS256PublicKey::from_pem(pem)),
        Algorithm::RS384 => ready!(RS384, RS384PublicKey::from_pem(pem)),
        Algorithm::RS512 => ready!(RS512, RS512PublicKey::from_pem(pem)),
        Algorithm::PS256 => ready!(PS256, PS256PublicKey::from_pem(pem)),
        Algorithm::PS384 => ready!(PS384, PS384PublicKey::from_pem(pem)),
        Algorithm::PS512 => ready!(PS512, PS512PublicKey::from_pem(pem)),
        Algorithm::ES256 => ready!(ES256, ES256PublicKey::from_pem(pem)),
        Algorithm::ES384 => ready!(ES384, ES384PublicKey::from_pem(pem)),
        Algorithm::EdDSA => ready!(EdDSA, Ed25519PublicKey::from_pem(pem)),
    }
}

#[cfg(test)]
mod tests {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
    use jwt_simple::prelude::{ES256KeyPair, ES384KeyPair, Ed25519KeyPair, RS256KeyPair};

    use super::*;

    const ALL: [Algorithm; 12] = [
        HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA,
    ];

    #[test]
    fn a_key_fits_the_algorithms_of_its_family_and_no_others() {
        let rsa = RS256KeyPair::from_pem(crate::token::tests::RSA).unwrap().public_key();
        let (p256, p384) = (
            ES256KeyPair::generate().public_key(),
            ES384KeyPair::generate().public_key(),
        );
        let ed = Ed25519KeyPair::generate().public_key();
        let point = |curve, bytes| Material::Point { curve, bytes };
        let components = rsa.to_components();
        let rsa_family = &[RS256, RS384, RS512, PS256, PS384, PS512][..];
        let table = [
            (Material::Secret(vec![7; 64]), &[HS256, HS384, HS512][..]),
            (
                Material::Rsa {
                    n: components.n,
                    e: components.e,
                },
                rsa_family,
            ),
            (point(Curve::P256, p256.public_key().to_bytes_uncompressed()), &[ES256]),
            (point(Curve::P384, p384.public_key().to_bytes_uncompressed()), &[ES384]),
            (point(Curve::P384, p256.public_key().to_bytes_uncompressed()), &[]),
            (Material::Ed25519(ed.to_bytes()), &[EdDSA]),
            (Material::Pem(rsa.to_pem().unwrap()), rsa_family),
            (Material::Pem(p256.to_pem().unwrap()), &[ES256]),
            (Material::Pem(p384.to_pem().unwrap()), &[ES384]),
            (Material::Pem(ed.to_pem()), &[EdDSA]),
        ];
        for (number, (material, expected)) in table.iter().enumerate() {
            let key = Key::new(None, material, &ALL);
            let fits: Vec<_> = ALL
                .into_iter()
                .filter(|one| key.as_ref().is_some_and(|key| key.fits(*one)))
                .collect();
            assert_eq!(fits, *expected, "row {number}");
        }
    }
}
