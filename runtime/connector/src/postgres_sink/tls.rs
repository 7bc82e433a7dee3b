//! TLS to the server, as libpq's `sslmode` defines it.
//!
//! | `sslmode` | encrypted | the certificate is of an authority that is known | and names the host |
//! |---|---|---|---|
//! | `disable` | no | | |
//! | `prefer` (default) | if the server can | no | no |
//! | `require` | yes | if `sslrootcert` is given | no |
//! | `verify-ca` | yes | yes | no |
//! | `verify-full` | yes | yes | yes |
//!
//! # Source
//! "SSL Support", documentation of libpq.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use streamrt_types::{Error, Result, code};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;

use super::url::TlsParameters;

/// The value of `sslrootcert` that means the authorities known to this machine.
pub const SYSTEM: &str = "system";

/// What a connection must have.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    mode: SslMode,
    /// Encryption if the server can do it.
    is_optional: bool,
}

fn refused(message: String) -> Error {
    Error::new(code::BAD_OPTION, format!("connector `postgres`: {message}"))
}

impl Tls {
    /// # Errors
    /// `Invalid` (S2007) if there is no such mode, or no authorities can be read where some are
    /// needed.
    pub fn new(parameters: &TlsParameters) -> Result<Tls> {
        let (mode, verified) = match parameters.mode.as_deref().unwrap_or("prefer") {
            "disable" => (SslMode::Disable, Verified::Nothing),
            "prefer" => (SslMode::Prefer, Verified::Nothing),
            "require" if parameters.roots.is_none() => (SslMode::Require, Verified::Nothing),
            "require" | "verify-ca" => (SslMode::Require, Verified::Authority),
            "verify-full" => (SslMode::Require, Verified::AuthorityAndName),
            _ => {
                return Err(refused(
                    "`sslmode` must be disable, prefer, require, verify-ca or verify-full"
                        .to_owned(),
                ));
            }
        };
        let provider = Arc::new(ring::default_provider());
        let authorities = if verified == Verified::Nothing {
            Authorities::none()
        } else {
            Authorities::read(parameters)?
        };
        let verifier = Arc::new(Verifier {
            verified,
            authorities,
            provider: provider.clone(),
        });
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|e| Error::internal("TLS cannot be set up").with_source(e))?;
        let config = config
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            mode,
            is_optional: mode == SslMode::Prefer,
        })
    }

    pub fn configure(&self, config: &mut Config) {
        config.ssl_mode(self.mode);
    }

    /// What to try after this failure, if anything: as libpq does, a server whose TLS cannot be
    /// used is tried without it, where that is allowed.
    pub fn without(&self, config: &Config, failure: &tokio_postgres::Error) -> Option<Config> {
        let is_due = self.is_optional && cause(failure).is_some();
        is_due.then(|| {
            let mut config = config.clone();
            config.ssl_mode(SslMode::Disable);
            config
        })
    }
}

/// Why TLS could not be agreed on, if that is what failed; asking again would not help.
pub fn cause(failure: &tokio_postgres::Error) -> Option<String> {
    const WITHOUT: &str = "server does not support TLS";
    let source = std::error::Error::source(failure)?;
    if source.to_string() == WITHOUT {
        return Some("the server does no TLS, and `sslmode` in `url` demands it".to_owned());
    }
    let inner = source
        .downcast_ref::<io::Error>()?
        .get_ref()?
        .downcast_ref::<rustls::Error>()?;
    Some(match inner {
        rustls::Error::InvalidCertificate(what) => format!(
            "the certificate of the server is not trusted: {}",
            sentence(what)
        ),
        other => format!("TLS could not be agreed on: {other}"),
    })
}

fn sentence(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "it is of no authority that `sslrootcert` in `url` names".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is not for the host in `url` ({error})")
        }
        other => other.to_string(),
    }
}

/// What is looked at in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verified {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// Whose certificates are trusted.
#[derive(Debug)]
struct Authorities {
    roots: RootCertStore,
    /// The same, as they were read: a server may use one of them itself.
    given: Vec<CertificateDer<'static>>,
}

impl Authorities {
    fn none() -> Authorities {
        Authorities {
            roots: RootCertStore::empty(),
            given: Vec::new(),
        }
    }

    fn read(parameters: &TlsParameters) -> Result<Authorities> {
        let given = match parameters.roots.as_deref() {
            Some(SYSTEM) => rustls_native_certs::load_native_certs().certs,
            Some(path) => from_file(path)?,
            None => {
                let message = "`sslmode` wants the certificate of the server verified, and nothing says by whom: add `sslrootcert=FILE` to `url`, \
                               with the certificates of the authorities, or `sslrootcert=system` for those that this machine knows";
                return Err(refused(message.to_owned()));
            }
        };
        let mut roots = RootCertStore::empty();
        let (n_taken, _) = roots.add_parsable_certificates(given.iter().cloned());
        if n_taken == 0 {
            Err(refused(
                "`sslrootcert` holds no certificate of an authority".to_owned(),
            ))
        } else {
            Ok(Authorities { roots, given })
        }
    }
}

/// The contents of the file are not shown: a plan may have named any file.
fn from_file(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    read.map_err(|_| {
        refused(format!(
            "`sslrootcert` is {path}, which is no file of certificates that can be read"
        ))
    })
}

#[derive(Debug)]
struct Verifier {
    verified: Verified,
    authorities: Authorities,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> std::result::Result<(), rustls::Error> {
        if self.verified == Verified::Nothing {
            return Ok(());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.authorities.roots,
            intermediates,
            now,
            algorithms,
        ) {
            // A server that signs for itself, with a certificate that says it is an authority, as
            // `openssl req -x509` makes it. By then its time was found right.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.authorities.given.contains(end_entity) => {}
            verified => verified?,
        }
        if self.verified == Verified::AuthorityAndName {
            verify_server_name(&certificate, name)
        } else {
            Ok(())
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, name, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Handshake {
            connector: self.connector.clone(),
            name,
        })
    }
}

/// With one host.
pub struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { Ok(Stream(self.connector.connect(self.name, stream).await?)) })
    }
}

/// The library's stream, under the library of the other side's trait.
pub struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
