//! Certificates, keys and revocation lists as they lie on disk.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use thiserror::Error;

/// No file of these is larger: a megabyte is a CA bundle of a thousand certificates.
const MAX_BYTES: u64 = 4 << 20;

/// A file that cannot be used.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it. Never any of its content.
    pub problem: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, problem: impl ToString) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// What is spoken over a connection, which a server says in the handshake (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, for gRPC.
    Grpc,
    /// HTTP/1.1, for pages and metrics.
    Http,
}

impl Protocol {
    fn name(self) -> &'static [u8] {
        match self {
            Protocol::Grpc => b"h2",
            Protocol::Http => b"http/1.1",
        }
    }
}

/// What a server shows of itself, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, with intermediate ones (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM). Must not be readable by everybody.
    pub key: PathBuf,
    /// Who signs the certificates of clients (PEM). `None`: no client can show one.
    pub client_ca: Option<PathBuf>,
    /// Certificates of clients that no longer count (PEM).
    pub revoked: Option<PathBuf>,
}

impl ServerFiles {
    /// All bytes of all files, to tell whether anything has changed.
    pub(crate) fn bytes(&self) -> Result<Vec<Vec<u8>>, FileError> {
        let all = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref(), self.revoked.as_ref()];
        all.into_iter().flatten().map(|path| read(path)).collect()
    }

    /// Reads everything. A client need not show a certificate, but one that it shows must be good.
    ///
    /// # Errors
    /// A file cannot be read or used, or they do not go together.
    pub fn load(&self, protocol: Protocol) -> Result<Arc<ServerConfig>, FileError> {
        let chain = certificates(&self.certificate)?;
        let key = private_key(&self.key)?;
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| FileError::new(&self.certificate, error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(roots(ca)?);
                let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                if let Some(revoked) = &self.revoked {
                    // Only the client's own certificate: lists of the authorities above it are rarely at hand.
                    verifier = verifier
                        .with_crls(revocations(revoked)?)
                        .only_check_end_entity_revocation()
                        .allow_unknown_revocation_status();
                }
                let verifier = verifier.allow_unauthenticated().build();
                builder.with_client_cert_verifier(verifier.map_err(|error| FileError::new(ca, error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            FileError::new(&self.certificate, format!("does not go with its key: {error}"))
        })?;
        config.alpn_protocols = vec![protocol.name().to_vec()];
        Ok(Arc::new(config))
    }
}

/// The one provider of cryptography: ring needs no cmake.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let said = |error: io::Error| FileError::new(path, error);
    if fs::metadata(path).map_err(said)?.len() > MAX_BYTES {
        return Err(FileError::new(path, "is larger than 4 MiB: not what it should be"));
    }
    fs::read(path).map_err(said)
}

/// A file with a secret in it: one that everybody can read is none.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, FileError> {
    let metadata = fs::metadata(path).map_err(|error| FileError::new(path, error))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        let problem = "every user of this machine may use this secret: chmod o= it";
        return Err(FileError::new(path, problem));
    }
    read(path)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(FileError::new(path, "holds no certificate (PEM)")),
        Err(error) => Err(FileError::new(path, error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let bytes = read_secret(path)?;
    // Its own words could quote what it stumbled over.
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| FileError::new(path, "holds no private key (PEM)"))
}

fn roots(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| FileError::new(path, error))?;
    }
    Ok(roots)
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    found.map_err(|error| FileError::new(path, error))
}
