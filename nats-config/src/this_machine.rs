//! TLS to a nats-server on this very machine.
//!
//! Its certificate is for the name by which clients know it from outside, and may be signed by an authority that only they know:
//! neither says anything about an address of this machine. So it is not judged there, as the commands do not judge the HTTP
//! door's. What a worker proves itself by, the signature of a challenge, is of no use to whoever might have taken the port.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use async_nats::ConnectOptions;
use async_nats::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use async_nats::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use async_nats::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use async_nats::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Takes whatever certificate is shown, if its key signs the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

/// Options by which servers at these URLs (with commas between them) are not asked for a certificate that vouches for their
/// addresses, if all of them are on this machine and speak TLS (`tls://127.0.0.1:4222`). Otherwise the options as they are.
#[must_use]
pub fn trusting_this_machine(options: ConnectOptions, urls: &str) -> ConnectOptions {
    if !urls.split(',').all(|url| is_here(url.trim())) {
        return options;
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    match config {
        Ok(config) => {
            let config = config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth();
            options.tls_client_config(config)
        }
        Err(error) => {
            tracing::error!(%error, "TLS cannot be set up");
            options
        }
    }
}

/// Whether a URL names an address of this machine: only one's own can be bound.
fn is_here(url: &str) -> bool {
    let address = url
        .strip_prefix("tls://")
        .and_then(|rest| rest.parse::<SocketAddr>().ok());
    address.is_some_and(|address| UdpSocket::bind((address.ip(), 0)).is_ok())
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_here() {
        for (url, here) in [
            ("tls://127.0.0.1:4222", true),
            ("tls://127.0.0.9:1", true),
            ("nats://127.0.0.1:4222", false),
            ("tls://192.0.2.1:4222", false),
            ("tls://localhost:4222", false),
            ("tls://", false),
        ] {
            assert_eq!(is_here(url), here, "{url}");
        }
    }
}
