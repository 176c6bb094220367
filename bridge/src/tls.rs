use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// TLS for the HTTP door: which certificate it shows, and how it is asked for.
///
/// TLS 1.2 and 1.3 by rustls, HTTP/2 and HTTP/1.1 by ALPN (RFC 7301). Clients show no certificate.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    shown: Arc<Shown>,
    /// A hash of the files as they were looked at last, good or bad, so that each state is judged once.
    looked_at: Mutex<[u8; 32]>,
    renewed: watch::Sender<u64>,
    pub(crate) acceptor: TlsAcceptor,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is not there, or may not be read.
    #[error("{} cannot be read: {error}", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file of certificates has none, or one is broken.
    #[error("{} has no certificate in PEM (-----BEGIN CERTIFICATE-----): {error}", .file.display())]
    NoCertificate {
        /// Which.
        file: PathBuf,
        /// What was found.
        error: pem::Error,
    },
    /// The file of the key has none.
    #[error("{} has no private key in PEM (-----BEGIN PRIVATE KEY-----, not encrypted): {error}", .file.display())]
    NoKey {
        /// Which.
        file: PathBuf,
        /// What was found.
        error: pem::Error,
    },
    /// The two cannot be used together: most often the key is another certificate's.
    #[error("the certificate {} cannot be used with the key {}: {error}", .cert.display(), .key.display())]
    Unusable {
        /// The file of certificates.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        error: rustls::Error,
    },
}

/// The certificate that the next client is shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Tls {
    /// Reads the certificates (the server's own first, then those between it and a root) and the key, both in PEM.
    ///
    /// # Errors
    /// See [`TlsError`]; each names the file.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let (bytes, hash) = read(cert, key)?;
        let shown = Arc::new(Shown(RwLock::new(certified(cert, key, &bytes)?)));
        let unusable = |error| TlsError::Unusable {
            cert: cert.to_owned(),
            key: key.to_owned(),
            error,
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            shown,
            looked_at: Mutex::new(hash),
            renewed: watch::Sender::new(0),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Looks whether the files have changed: the next client is then shown the new certificate, and the connections that
    /// are there stay as they are. `true` if it has changed.
    ///
    /// # Errors
    /// See [`TlsError`]: the certificate of before stays, and each state of the files is told once. Between the writing of
    /// the one and the other file that is to be expected.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let (bytes, hash) = read(&self.cert, &self.key)?;
        if std::mem::replace(&mut *self.looked_at.lock(), hash) == hash {
            return Ok(false);
        }
        *self.shown.0.write() = certified(&self.cert, &self.key, &bytes)?;
        self.renewed.send_modify(|times| *times += 1);
        Ok(true)
    }

    /// How often another certificate was taken, for whoever shows the same one.
    #[must_use]
    pub fn renewed(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Both files, and a hash of them.
fn read(cert: &Path, key: &Path) -> Result<([Vec<u8>; 2], [u8; 32]), TlsError> {
    let bytes = |file: &Path| {
        std::fs::read(file).map_err(|error| TlsError::Unreadable {
            file: file.to_owned(),
            error,
        })
    };
    let both = [bytes(cert)?, bytes(key)?];
    let mut hash = Sha256::new();
    for bytes in &both {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
    Ok((both, hash.finalize().into()))
}

fn certified(cert: &Path, key: &Path, [cert_bytes, key_bytes]: &[Vec<u8>; 2]) -> Result<Arc<CertifiedKey>, TlsError> {
    let no_certificate = |error| TlsError::NoCertificate {
        file: cert.to_owned(),
        error,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert_bytes)
        .collect::<Result<_, _>>()
        .map_err(no_certificate)?;
    if chain.is_empty() {
        return Err(no_certificate(pem::Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_slice(key_bytes).map_err(|error| TlsError::NoKey {
        file: key.to_owned(),
        error,
    })?;
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|error| TlsError::Unusable {
        cert: cert.to_owned(),
        key: key.to_owned(),
        error,
    })?;
    Ok(Arc::new(certified))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, KeyPair};

    use super::*;

    fn made() -> Made<KeyPair> {
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap()
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, cert: &str, key: &str) -> (PathBuf, PathBuf) {
            let (at, of) = (self.0.path().join("cert.pem"), self.0.path().join("key.pem"));
            std::fs::write(&at, cert).unwrap();
            std::fs::write(&of, key).unwrap();
            (at, of)
        }
    }

    fn first_shown(tls: &Tls) -> CertificateDer<'static> {
        tls.shown.0.read().cert[0].clone()
    }

    #[test]
    fn bad_files_are_named_with_what_is_wrong() {
        let (files, one, other) = (Files::new(), made(), made());
        let (good, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let other_key = other.signing_key.serialize_pem();
        let broken = good.replace("MII", "!!!");
        for (cert, key, expected) in [
            ("", key.as_str(), "cert.pem has no certificate"),
            ("nonsense", &key, "cert.pem has no certificate"),
            (&broken, &key, "cert.pem has no certificate"),
            (&key, &key, "cert.pem has no certificate"),
            (&good, "", "key.pem has no private key"),
            (&good, &good, "key.pem has no private key"),
            (&good, &other_key, "cannot be used with the key"),
        ] {
            let (at, of) = files.put(cert, key);
            let error = Tls::load(&at, &of).err().unwrap().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(
                !error.contains(&key[..key.len().min(60)]) || key.is_empty(),
                "a key is shown: {error}"
            );
        }
        let (at, of) = files.put(&good, &key);
        Tls::load(&at, &of).unwrap();
        std::fs::remove_file(&of).unwrap();
        assert!(matches!(Tls::load(&at, &of), Err(TlsError::Unreadable { file, .. }) if file == of));
    }

    #[test]
    fn files_that_change_are_shown_once_they_fit() {
        let (files, one, other) = (Files::new(), made(), made());
        let (at, of) = files.put(&one.cert.pem(), &one.signing_key.serialize_pem());
        let tls = Tls::load(&at, &of).unwrap();
        assert!(!tls.reload().unwrap());
        // First the one file, then the other.
        std::fs::write(&at, other.cert.pem()).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Unusable { .. })));
        assert!(!tls.reload().unwrap(), "told once");
        assert_eq!(&first_shown(&tls), one.cert.der());
        std::fs::write(&of, other.signing_key.serialize_pem()).unwrap();
        assert!(tls.reload().unwrap());
        assert_eq!(&first_shown(&tls), other.cert.der());
    }
}
