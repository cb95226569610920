//! Tokens of a standalone aggregator: a file of names, SHA-256 digests and rights, read again whenever it changes.
//!
//! The file holds no token. The two made at first start lie beside it, for their owner only: `admin.token` for the CLI
//! and `agent.token` for the agent. A file that cannot be read or parsed lets nobody in.

mod file;

use super::{Bearer, Question, Right, User, not_accepted};
use crate::environment::EnvironmentKey;
use crate::platform::local;
use crate::private_file;
use anyhow::Context as _;
use file::{Entry, Rights};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use skpr_proto::{ErrorKind, Failure, NodeName};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq as _;

const TOKENS: &str = "tokens";
/// Beside the file, which a rename replaces: a lock on it would be one on what was.
const TOKENS_LOCK: &str = "tokens.lock";
const ADMIN_TOKEN: &str = "admin.token";
const AGENT_TOKEN: &str = "agent.token";

/// The token file, as last read.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    stamp: Option<Stamp>,
    entries: Option<Arc<Vec<Entry>>>,
}

/// Changes whenever the file does: it is replaced by rename or grows, and an editor sets its time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl TokenFile {
    /// Opens the token file of a data directory; makes it, with an administrator's and an agent's token, if absent.
    pub fn open(data: &Path) -> anyhow::Result<TokenFile> {
        let path = data.join(TOKENS);
        if !path.try_exists().context("look for the token file")? {
            let (admin, agent) = (new_token()?, new_token()?);
            // The tokens before the file that makes them valid: a crash in between starts over.
            private_file::write(&data.join(ADMIN_TOKEN), format!("{admin}\n").as_bytes())?;
            private_file::write(&data.join(AGENT_TOKEN), format!("{agent}\n").as_bytes())?;
            let node = NodeName::parse(local::NODE)?;
            let entries = [
                Entry { name: "admin".into(), digest: digest(&admin), rights: Rights::All },
                Entry { name: "agent".into(), digest: digest(&agent), rights: Rights::Agent(node) },
            ];
            let lines: String = entries.iter().map(Entry::to_line).collect();
            private_file::write(&path, format!("{}{lines}", file::HEADER).as_bytes())?;
        }
        let tokens = TokenFile { path, loaded: Mutex::default() };
        tokens.load(&mut Loaded::default())?;
        Ok(tokens)
    }

    /// Where the token of the user that starts with every right is kept.
    pub fn admin_token(data: &Path) -> PathBuf {
        data.join(ADMIN_TOKEN)
    }

    /// Where the local agent's token is kept.
    pub fn agent_token(data: &Path) -> PathBuf {
        data.join(AGENT_TOKEN)
    }

    pub(super) fn user(&self, bearer: &Bearer) -> Result<Arc<User>, Failure> {
        let entries = self.entries()?;
        match find(&entries, bearer) {
            Some(Entry { rights: Rights::Agent(_), .. }) | None => Err(not_accepted()),
            Some(entry) => Ok(Arc::new(User { name: entry.name.clone(), ..User::default() })),
        }
    }

    pub(super) fn agent(&self, bearer: &Bearer) -> Result<(String, NodeName), Failure> {
        let entries = self.entries()?;
        match find(&entries, bearer) {
            Some(Entry { name, rights: Rights::Agent(node), .. }) => Ok((name.clone(), node.clone())),
            Some(_) | None => Err(not_accepted()),
        }
    }

    pub(super) fn allows(&self, user: &User, question: &Question<'_>) -> Result<bool, Failure> {
        let entries = self.entries()?;
        let entry = entries.iter().find(|entry| entry.name == user.name);
        Ok(entry.is_some_and(|entry| entry.rights.allow(question)))
    }

    /// As the file says them, each on its own.
    pub(super) fn rights(&self, user: &User) -> Result<Vec<String>, Failure> {
        let entries = self.entries()?;
        let entry = entries.iter().find(|entry| entry.name == user.name);
        let rights = entry.map(|entry| entry.rights.to_string()).unwrap_or_default();
        Ok(rights.split(',').filter(|right| !right.is_empty()).map(str::to_owned).collect())
    }

    pub(super) fn visible(
        &self,
        user: &User,
        candidates: BTreeSet<EnvironmentKey>,
    ) -> Result<BTreeSet<EnvironmentKey>, Failure> {
        let entries = self.entries()?;
        let entry = entries.iter().find(|entry| entry.name == user.name);
        let visible = |key: &EnvironmentKey| {
            entry.is_some_and(|entry| entry.rights.allow(&Question::May(Right::See, key)))
        };
        Ok(candidates.into_iter().filter(visible).collect())
    }

    /// What the file says now. It is small and on this machine, so it is looked at in place.
    fn entries(&self) -> Result<Arc<Vec<Entry>>, Failure> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.load(&mut loaded).map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "token file refused: nobody is let in");
            Failure::new(ErrorKind::Unavailable, "the aggregator cannot read its token file")
        })
    }

    fn load(&self, loaded: &mut Loaded) -> anyhow::Result<Arc<Vec<Entry>>> {
        let metadata = std::fs::metadata(&self.path).context("read the token file's metadata")?;
        let stamp = Stamp {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        if let (Some(entries), Some(known)) = (&loaded.entries, &loaded.stamp)
            && *known == stamp
        {
            return Ok(Arc::clone(entries));
        }
        *loaded = Loaded::default();
        let text = std::fs::read_to_string(&self.path).context("read the token file")?;
        let entries = Arc::new(file::parse(&text).with_context(|| format!("parse {}", self.path.display()))?);
        *loaded = Loaded { stamp: Some(stamp), entries: Some(Arc::clone(&entries)) };
        Ok(entries)
    }
}

/// Adds a token to the file of a data directory and returns it. It is kept nowhere.
pub fn create_token(data: &Path, name: &str, rights: &str) -> anyhow::Result<String> {
    let path = data.join(TOKENS);
    // What is read, added to and written back is one change: of two at once the second waits. The lock ends with the file.
    let lock = private_file::open_lock(&data.join(TOKENS_LOCK))?;
    flock(&lock, FlockOperation::LockExclusive).context("lock the token file")?;
    let text = private_file::read(&path)?
        .with_context(|| format!("`{}` has no token file: start `standalone` there first", data.display()))?;
    let entries = file::parse(&text).with_context(|| format!("parse {}", path.display()))?;
    anyhow::ensure!(
        !entries.iter().any(|entry| entry.name == name),
        "there is already a token named `{name}`"
    );
    let token = new_token()?;
    let entry =
        Entry { name: file::parse_name(name)?, digest: digest(&token), rights: file::parse_rights(rights)? };
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    private_file::write(&path, format!("{text}{separator}{}", entry.to_line()).as_bytes())?;
    Ok(token)
}

/// 32 bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
    Ok(bytes)
}

/// A number below `limit`, for spreading things in time.
pub(crate) fn random_below(limit: u32) -> u32 {
    random::<4>().map_or(0, u32::from_le_bytes).checked_rem(limit).unwrap_or(0)
}

fn new_token() -> anyhow::Result<String> {
    Ok(format!("skpr_{}", file::hex(&random::<32>()?)))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Looks at every entry whatever it finds, so that the time taken tells nothing about the digests.
fn find<'a>(entries: &'a [Entry], bearer: &Bearer) -> Option<&'a Entry> {
    let wanted = digest(&bearer.0);
    let mut found = None;
    for entry in entries {
        if bool::from(entry.digest.ct_eq(&wanted)) {
            found = Some(entry);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tests::key;
    use std::os::unix::fs::PermissionsExt as _;

    fn bearer(path: &Path) -> Bearer {
        Bearer(std::fs::read_to_string(path).unwrap().trim().to_owned())
    }

    #[test]
    fn the_first_start_makes_an_admin_and_an_agent() {
        let data = tempfile::tempdir().unwrap();
        let tokens = TokenFile::open(data.path()).unwrap();
        let admin = bearer(&TokenFile::admin_token(data.path()));
        let agent = bearer(&TokenFile::agent_token(data.path()));
        let user = tokens.user(&admin).unwrap();
        assert!(tokens.allows(&user, &Question::ListAll).unwrap());
        assert_eq!(tokens.agent(&agent).unwrap().1.as_str(), local::NODE);
        // Neither can be used as the other.
        assert_eq!(tokens.agent(&admin).unwrap_err().kind, ErrorKind::NotLoggedIn);
        assert_eq!(tokens.user(&agent).unwrap_err().kind, ErrorKind::NotLoggedIn);
        for name in [TOKENS, ADMIN_TOKEN, AGENT_TOKEN] {
            let mode = std::fs::metadata(data.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        // A second start keeps them.
        assert!(TokenFile::open(data.path()).unwrap().user(&admin).is_ok());
    }

    #[test]
    fn a_created_token_works_at_once_and_only_where_it_may() {
        let data = tempfile::tempdir().unwrap();
        let tokens = TokenFile::open(data.path()).unwrap();
        let token = create_token(data.path(), "ci", "web/dev:logs+list,shop/*:list").unwrap();
        let user = tokens.user(&Bearer(token)).unwrap();
        let (dev, prod, shop) =
            (key("local", "web", "dev"), key("local", "web", "prod"), key("local", "shop", "x"));
        assert!(tokens.allows(&user, &Question::May(Right::ReadLogs, &dev)).unwrap());
        assert!(!tokens.allows(&user, &Question::May(Right::ReadLogs, &prod)).unwrap());
        assert!(!tokens.allows(&user, &Question::May(Right::ReadLogs, &shop)).unwrap());
        assert!(!tokens.allows(&user, &Question::ListAll).unwrap());
        let all = BTreeSet::from([dev.clone(), prod, shop.clone()]);
        assert_eq!(tokens.visible(&user, all).unwrap(), BTreeSet::from([dev, shop]));
        assert!(create_token(data.path(), "ci", "*").unwrap_err().to_string().contains("`ci`"));
    }

    #[test]
    fn the_right_to_tasks_is_one_of_its_own_and_shows_the_environment() {
        let data = tempfile::tempdir().unwrap();
        let tokens = TokenFile::open(data.path()).unwrap();
        let dev = key("local", "web", "dev");
        for (name, rights, expected) in [
            ("keeper", "web/dev:cron", [true, true, false, false]),
            ("other", "web/prod:cron", [false, false, false, false]),
            ("deployer", "web/dev:deploy+exec+files+delete", [false, true, false, true]),
        ] {
            let user = tokens.user(&Bearer(create_token(data.path(), name, rights).unwrap())).unwrap();
            let may = [Right::Cron, Right::See, Right::ReadLogs, Right::Exec]
                .map(|right| tokens.allows(&user, &Question::May(right, &dev)).unwrap());
            assert_eq!(may, expected, "{rights}");
        }
    }

    #[test]
    fn of_tokens_created_at_once_none_is_lost() {
        let data = tempfile::tempdir().unwrap();
        let tokens = TokenFile::open(data.path()).unwrap();
        let created: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|i| {
                    let data = data.path();
                    scope.spawn(move || create_token(data, &format!("ci-{i}"), "*").unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for token in created {
            assert!(tokens.user(&Bearer(token)).is_ok());
        }
    }

    #[test]
    fn a_broken_file_lets_nobody_in_and_a_mended_one_does() {
        let data = tempfile::tempdir().unwrap();
        let tokens = TokenFile::open(data.path()).unwrap();
        let admin = bearer(&TokenFile::admin_token(data.path()));
        let path = data.path().join(TOKENS);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{good}nonsense\n")).unwrap();
        assert_eq!(tokens.user(&admin).unwrap_err().kind, ErrorKind::Unavailable);
        private_file::write(&path, good.as_bytes()).unwrap();
        assert!(tokens.user(&admin).is_ok());
        // A removed line is a revoked token.
        private_file::write(&path, b"# none\n").unwrap();
        assert_eq!(tokens.user(&admin).unwrap_err().kind, ErrorKind::NotLoggedIn);
    }
}
