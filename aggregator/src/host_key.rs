//! The host key of each environment: an Ed25519 key by which SSH clients know that they have come to the right place.
//!
//! * Each is derived from one secret of 32 bytes, which is made once and then only read. So a key is the same for as long as
//!   the secret is kept, whichever aggregator is asked, and there is nothing to write when an environment is new.
//! * The secret leaves this module never, and an environment's private key only on the way to the agent that serves it.

use crate::auth::random;
use crate::environment::EnvironmentKey;
use crate::private_file;
use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use skpr_proto::Label;
use std::path::PathBuf;

/// The file in a data directory, and the entry of a Secret.
const FILE: &str = "host-keys.secret";
/// Keys of another kind, or of another version, would be derived for another context.
const CONTEXT: &str = "skpr 2026-11-29 SSH host key of an environment";
const ALGORITHM: &str = "ssh-ed25519";

/// Where the secret is kept.
pub enum Place {
    Directory(PathBuf),
    Secret { client: Client, namespace: Label, name: String },
}

/// Derives keys. Shows nothing of the secret.
pub struct HostKeys([u8; 32]);

/// One environment's key.
pub struct HostKey {
    seed: [u8; 32],
    public: String,
}

impl std::fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostKeys(…)")
    }
}

impl HostKeys {
    /// Reads the secret, or makes it.
    pub async fn load_or_create(place: &Place) -> anyhow::Result<HostKeys> {
        match place {
            Place::Directory(directory) => {
                let path = directory.join(FILE);
                if let Some(text) = private_file::read(&path)? {
                    return parse(text.as_bytes()).with_context(|| format!("read {}", path.display()));
                }
                let secret = random::<32>()?;
                private_file::write(&path, format!("{}\n", STANDARD.encode(secret)).as_bytes())?;
                Ok(HostKeys(secret))
            }
            Place::Secret { client, namespace, name } => {
                in_secret(&Api::namespaced(client.clone(), namespace.as_str()), name).await
            }
        }
    }

    /// The key of an environment.
    pub fn of(&self, environment: &EnvironmentKey) -> anyhow::Result<HostKey> {
        let EnvironmentKey { namespace, name } = environment;
        // None of the three can hold a slash.
        let what = format!("{namespace}/{}/{}", name.project, name.environment);
        let own = blake3::derive_key(CONTEXT, &self.0);
        let seed = *blake3::keyed_hash(&own, what.as_bytes()).as_bytes();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| anyhow!("the key is refused"))?;
        let mut blob = Vec::new();
        for part in [ALGORITHM.as_bytes(), pair.public_key().as_ref()] {
            blob.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            blob.extend_from_slice(part);
        }
        Ok(HostKey { seed, public: format!("{ALGORITHM} {}", STANDARD.encode(blob)) })
    }
}

impl HostKey {
    /// What the agent needs to prove that it serves the environment.
    pub(crate) fn seed(&self) -> [u8; 32] {
        self.seed
    }

    /// As a file of known hosts has it.
    pub fn public(&self) -> &str {
        &self.public
    }
}

fn parse(text: &[u8]) -> anyhow::Result<HostKeys> {
    let bytes = STANDARD.decode(text.trim_ascii()).context("decode the secret of the host keys")?;
    let secret = bytes.try_into().map_err(|_| anyhow!("the secret of the host keys is not 32 bytes"))?;
    Ok(HostKeys(secret))
}

async fn in_secret(secrets: &Api<Secret>, name: &str) -> anyhow::Result<HostKeys> {
    let read = || async { secrets.get_opt(name).await.with_context(|| format!("read Secret `{name}`")) };
    if let Some(secret) = read().await? {
        return from_secret(&secret, name);
    }
    let made = random::<32>()?;
    let mut secret = Secret { type_: Some("Opaque".into()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret.data = Some([(FILE.to_owned(), ByteString(STANDARD.encode(made).into_bytes()))].into());
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(HostKeys(made)),
        // Another aggregator was first.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let secret = read().await?.with_context(|| format!("Secret `{name}` is gone again"))?;
            from_secret(&secret, name)
        }
        Err(error) => Err(error).with_context(|| format!("create Secret `{name}`")),
    }
}

fn from_secret(secret: &Secret, name: &str) -> anyhow::Result<HostKeys> {
    let value = secret.data.as_ref().and_then(|data| data.get(FILE));
    let value = value.with_context(|| format!("Secret `{name}` has no `{FILE}`"))?;
    parse(&value.0).with_context(|| format!("read Secret `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_key_stays_and_is_one_environment_s_alone() {
        let data = tempfile::tempdir().unwrap();
        let place = Place::Directory(data.path().to_owned());
        let first = HostKeys::load_or_create(&place).await.unwrap();
        let again = HostKeys::load_or_create(&place).await.unwrap();
        let public = |keys: &HostKeys, namespace: &str, project: &str, environment: &str| {
            keys.of(&key(namespace, project, environment)).unwrap().public().to_owned()
        };
        let dev = public(&first, "local", "shop", "dev");
        assert_eq!(dev, public(&again, "local", "shop", "dev"));
        assert!(dev.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"), "{dev}");
        let others = [("local", "shop", "prod"), ("local", "blog", "dev"), ("other", "shop", "dev")];
        for (namespace, project, environment) in others {
            assert_ne!(dev, public(&first, namespace, project, environment));
        }
        let mode = std::fs::metadata(data.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_secret_that_is_damaged_is_not_replaced() {
        let data = tempfile::tempdir().unwrap();
        let place = Place::Directory(data.path().to_owned());
        for bad in ["", "!", "AAAA"] {
            std::fs::write(data.path().join(FILE), bad).unwrap();
            assert!(HostKeys::load_or_create(&place).await.is_err(), "{bad}");
            assert_eq!(std::fs::read_to_string(data.path().join(FILE)).unwrap(), bad);
        }
    }
}
