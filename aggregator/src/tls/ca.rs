//! A certificate authority of our own: where it is kept, and what it issues.
//!
//! It is made once and then only read. Two aggregators that start at once end up with the same one: the first to
//! create the Secret wins, the other reads it.

use super::certified;
use crate::private_file;
use anyhow::{Context as _, anyhow};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use skpr_proto::Label;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const CA_VALID: Duration = Duration::from_secs(3653 * 86_400);
/// How far a client's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The authority, able to issue.
pub struct Ca {
    pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// Where an authority is kept.
pub enum CaPlace {
    Directory(PathBuf),
    Secret { client: Client, namespace: Label, name: String },
}

impl CaPlace {
    pub async fn load_or_create(&self) -> anyhow::Result<Ca> {
        match self {
            CaPlace::Directory(directory) => in_directory(directory),
            CaPlace::Secret { client, namespace, name } => {
                in_secret(&Api::namespaced(client.clone(), namespace.as_str()), name).await
            }
        }
    }

    /// The CA's certificate in a data directory.
    pub fn certificate_file(directory: &Path) -> PathBuf {
        directory.join(CERTIFICATE)
    }
}

fn in_directory(directory: &Path) -> anyhow::Result<Ca> {
    let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
    match (private_file::read(&certificate)?, private_file::read(&key)?) {
        (Some(certificate), Some(key)) => Ca::from_pem(&certificate, &key),
        // The key is written first, so a certificate alone means that somebody took the key away.
        (Some(_), None) => Err(anyhow!(
            "`{}` is there and `{}` is not: put the key back, or remove both to make a new CA",
            certificate.display(),
            key.display()
        )),
        (None, _) => {
            let made = Made::new(SystemTime::now())?;
            private_file::write(&key, made.key.as_bytes())?;
            private_file::write_public(&certificate, made.certificate.as_bytes())?;
            made.ca()
        }
    }
}

async fn in_secret(secrets: &Api<Secret>, name: &str) -> anyhow::Result<Ca> {
    if let Some(secret) = secrets.get_opt(name).await.with_context(|| format!("read Secret `{name}`"))? {
        return from_secret(&secret, name);
    }
    let made = Made::new(SystemTime::now())?;
    let mut secret = Secret { type_: Some("Opaque".into()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    let entries = [(CERTIFICATE, &made.certificate), (KEY, &made.key)];
    secret.data =
        Some(entries.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).into());
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => made.ca(),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let secret = secrets.get(name).await.with_context(|| format!("read Secret `{name}`"))?;
            from_secret(&secret, name)
        }
        Err(error) => Err(error).with_context(|| format!("create Secret `{name}`")),
    }
}

fn from_secret(secret: &Secret, name: &str) -> anyhow::Result<Ca> {
    let part = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        let value = value.with_context(|| format!("Secret `{name}` has no `{key}`"))?;
        String::from_utf8(value.0.clone()).with_context(|| format!("read `{key}` of Secret `{name}`"))
    };
    Ca::from_pem(&part(CERTIFICATE)?, &part(KEY)?)
}

/// A new authority as text, before it is kept anywhere.
struct Made {
    certificate: String,
    key: String,
}

impl Made {
    fn new(now: SystemTime) -> anyhow::Result<Made> {
        let key = KeyPair::generate().context("make the CA's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "skpr CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + CA_VALID).into();
        let certificate = params.self_signed(&key).context("sign the CA's certificate")?;
        Ok(Made { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn ca(&self) -> anyhow::Result<Ca> {
        Ca::from_pem(&self.certificate, &self.key)
    }
}

impl Ca {
    fn from_pem(certificate: &str, key: &str) -> anyhow::Result<Ca> {
        let pem = certificate.to_owned();
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).context("parse the CA's certificate")?;
        let pkcs8 = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("parse the CA's key")?;
        // Joined once, so that a key of another CA is found here and not by every client.
        certified(vec![certificate.clone()], pkcs8)?;
        let key = KeyPair::from_pem(key).context("parse the CA's key")?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).context("read the CA's certificate")?;
        Ok(Ca { pem, certificate, issuer })
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server certificate for these names and addresses, with the CA behind it in the chain.
    pub fn issue(&self, names: &[String], now: SystemTime, valid: Duration) -> anyhow::Result<CertifiedKey> {
        let key = KeyPair::generate().context("make the server's key")?;
        let mut params = CertificateParams::new(names).context("read the certificate's names")?;
        params.distinguished_name.push(DnType::CommonName, "skpr-aggregator");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + valid).into();
        let leaf = params.signed_by(&key, &self.issuer).context("sign the server's certificate")?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        certified(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}
