// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients which do what the real one never does.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use hvckpt_wire::PublicKey;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::AMPLE;

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// DER around an Ed25519 seed and public key (RFC 8410).
const PKCS8: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const SPKI: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// A private key and its public half.
pub fn key_pair() -> ([u8; 32], PublicKey) {
    let mut seed = [0; 32];
    hvckpt_wire::random(&mut seed).unwrap();
    let signer = signer(seed);
    let spki = signer.public_key().unwrap();
    (
        seed,
        PublicKey(spki.as_ref()[SPKI.len()..].try_into().unwrap()),
    )
}

fn signer(seed: [u8; 32]) -> Arc<dyn rustls::sign::SigningKey> {
    let der = [&PKCS8[..], &seed].concat();
    ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).unwrap()
}

fn identity(public: PublicKey, seed: [u8; 32]) -> ClientConfig {
    let spki = CertificateDer::from([&SPKI[..], &public.0].concat());
    let certified = Arc::new(CertifiedKey::new(vec![spki], signer(seed)));
    let resolver = AlwaysResolvesClientRawPublicKeys::new(certified);
    builder().with_client_cert_resolver(Arc::new(resolver))
}

fn client(mut config: ClientConfig, alpn: bool) -> ClientConnection {
    if alpn {
        config.alpn_protocols = vec![hvckpt_wire::ALPN.to_vec()];
    }
    let name = ServerName::try_from("x").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// What a client says first.
pub fn hello() -> Vec<u8> {
    let (seed, public) = key_pair();
    let mut octets = Vec::new();
    let mut connection = client(identity(public, seed), true);
    connection.write_tls(&mut octets).unwrap();
    octets
}

/// A connection with all of the handshake behind it, unless the server closes.
pub fn try_connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let (seed, public) = key_pair();
    let mut connection = client(identity(public, seed), true);
    let mut tcp = TcpStream::connect(addr)?;
    tcp.set_read_timeout(Some(AMPLE))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    Ok(tcp)
}

/// Presents `public` and signs with `seed`, which need not belong together.
pub fn connect(addr: SocketAddr, public: PublicKey, seed: [u8; 32], alpn: bool) -> Stream {
    handshake(addr, identity(public, seed), alpn)
}

pub fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnyServer))
}

pub fn handshake(addr: SocketAddr, config: ClientConfig, alpn: bool) -> Stream {
    let connection = client(config, alpn);
    let tcp = TcpStream::connect(addr).unwrap();
    tcp.set_read_timeout(Some(AMPLE)).unwrap();
    tcp.set_write_timeout(Some(AMPLE)).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    // May fail: that is what some tests are about.
    while stream.conn.is_handshaking() && stream.conn.complete_io(&mut stream.sock).is_ok() {}
    stream
}

#[derive(Debug)]
struct TrustsAnyServer;

impl ServerCertVerifier for TrustsAnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
