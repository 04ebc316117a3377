//! A certificate authority of a site that exists for one test.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Files of one party.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, whose own certificate is `dir/ca.crt`.
    ///
    /// # Panics
    /// As all of this, when files cannot be written: a test cannot go on then.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", dir.display()));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        fs::write(dir.join("ca.crt"), certificate.pem()).expect("written");
        Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// Whom to believe.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Certificate number `serial` for `names`, in files called after `file`, which are replaced if they are there.
    pub fn issue(&self, file: &str, names: &[&str], serial: u64) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let identity = Identity {
            certificate: self.dir.join(format!("{file}.crt")),
            key: self.dir.join(format!("{file}.key")),
        };
        fs::write(&identity.certificate, certificate.pem()).expect("written");
        write_secret(&identity.key, &key.serialize_pem());
        identity
    }

    /// Writes a list of certificates that no longer count.
    pub fn revoke(&self, serials: &[u64]) -> PathBuf {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.dir.join("revoked.pem");
        fs::write(&path, list.signed_by(&self.issuer).expect("signed").pem().expect("text"))
            .expect("written");
        path
    }
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("closed");
}
