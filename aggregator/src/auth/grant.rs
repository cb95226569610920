//! Rights to one environment, and the proof of having one.
//!
//! - Only this file makes a [`Grant`], each from a "yes" of the source of rights.
//! - An environment that does not exist and one that the caller may not see give the same answer after the same
//!   questions, except to a caller who may list everything.

use super::{Auth, Question, User};
use crate::environment::EnvironmentKey;
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

/// Proof that a user may do one thing, which `R` names, to one environment.
#[derive(Clone, Debug)]
pub struct Grant<R> {
    user: Arc<User>,
    environment: EnvironmentKey,
    makes_namespace: bool,
    right: PhantomData<R>,
}

/// What may be done to one environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    See,
    ReadLogs,
    ReadMetrics,
    Change,
    Delete,
    Exec,
    Files,
    Cron,
}

/// Names a [`Right`] in a grant's type.
pub trait Permission: Send + Sync + 'static {
    const RIGHT: Right;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl Permission for $name {
            const RIGHT: Right = Right::$name;
        }
    )*};
}
permissions!(
    /// To see that it exists, how it is set up and how it goes.
    See,
    /// To read its logs and events.
    ReadLogs,
    /// To read what it has used, over time.
    ReadMetrics,
    /// To deploy, roll back or scale it.
    Change,
    /// To delete it.
    Delete,
    /// To run processes in it.
    Exec,
    /// To read and write its files.
    Files,
    /// To start runs of its tasks, suspend and resume them.
    Cron
);

/// The environments of one name, each with what is known of it.
pub type Candidates = BTreeMap<EnvironmentKey, Standing>;

/// How much of an environment there is. Where a caller may reach several of one name, the only one that has the most is
/// meant: neither history nor a label on somebody's pod has a say in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// There are records of it.
    History,
    /// It has instances.
    Runs,
    /// skpr looks after it.
    Managed,
}

impl<R> Grant<R> {
    pub fn user(&self) -> &User {
        &self.user
    }

    pub fn environment(&self) -> &EnvironmentKey {
        &self.environment
    }

    /// Whether the environment's namespace may be made for it.
    pub fn makes_namespace(&self) -> bool {
        self.makes_namespace
    }

    fn new(user: &Arc<User>, environment: EnvironmentKey) -> Grant<R> {
        Grant { user: Arc::clone(user), environment, makes_namespace: false, right: PhantomData }
    }
}

impl Auth {
    /// A grant to the one environment called `name` among `candidates` (which have that name).
    pub async fn grant<R: Permission>(
        &self,
        user: &Arc<User>,
        name: &EnvironmentName,
        candidates: &Candidates,
    ) -> Result<Grant<R>, Failure> {
        let allowed = self.allowed(user, R::RIGHT, candidates).await?;
        if candidates.is_empty() {
            // As many questions as for one that exists, so that the time an answer takes tells nothing either.
            self.allows(user, Question::Anywhere(R::RIGHT, name)).await?;
        }
        if allowed.is_empty() {
            return Err(self.refusal(user, R::RIGHT, name, candidates).await?);
        }
        Ok(Grant::new(user, choose(name, allowed)?))
    }

    /// A grant to deploy to the one environment called `name` among `candidates`, or to make it at `home`.
    pub async fn grant_deploy(
        &self,
        user: &Arc<User>,
        home: &EnvironmentKey,
        candidates: &Candidates,
    ) -> Result<Grant<Change>, Failure> {
        let allowed = self.allowed(user, Right::Change, candidates).await?;
        if !allowed.is_empty() {
            return Ok(Grant::new(user, choose(&home.name, allowed)?));
        }
        // One of that name elsewhere, which the caller may not change, takes the name from nobody here.
        if !candidates.contains_key(home) && self.allows(user, Question::May(Right::Change, home)).await? {
            return Ok(Grant::new(user, home.clone()));
        }
        match self.refusal(user, Right::Change, &home.name, candidates).await? {
            // That there is none yet is no reason against a deploy.
            failure if failure.kind == ErrorKind::NotFound => Err(not_allowed(Right::Change, &home.name)),
            failure => Err(failure),
        }
    }

    /// The same grant for an environment whose namespace has to be made first.
    pub async fn grant_namespace(&self, grant: Grant<Change>) -> Result<Grant<Change>, Failure> {
        if self.allows(&grant.user, Question::CreateNamespaces).await? {
            return Ok(Grant { makes_namespace: true, ..grant });
        }
        let namespace = &grant.environment.namespace;
        let message = format!("there is no namespace `{namespace}`, and you may not make one");
        Err(Failure::new(ErrorKind::NotAllowed, message)
            .with_hint("name one that exists with --namespace, or ask whoever may create namespaces for it"))
    }

    /// Whether a grant still holds: a follower outlives changes of rights. The token is not asked for again, so that
    /// following goes on when a short-lived token runs out, as it does with `kubectl logs -f`.
    pub async fn recheck_grant<R: Permission>(&self, grant: &Grant<R>) -> Result<(), Failure> {
        if self.allows(&grant.user, Question::May(R::RIGHT, &grant.environment)).await? {
            Ok(())
        } else {
            Err(not_allowed(R::RIGHT, &grant.environment.name))
        }
    }

    /// A further grant to an environment that the caller has one for; none where it has no right to that.
    pub async fn further<R: Permission, S>(&self, grant: &Grant<S>) -> Result<Option<Grant<R>>, Failure> {
        let allowed = self.allows(&grant.user, Question::May(R::RIGHT, &grant.environment)).await?;
        Ok(allowed.then(|| Grant::new(&grant.user, grant.environment.clone())))
    }

    async fn allowed(
        &self,
        user: &User,
        right: Right,
        candidates: &Candidates,
    ) -> Result<Candidates, Failure> {
        let mut allowed = Candidates::new();
        for (candidate, standing) in candidates {
            if self.allows(user, Question::May(right, candidate)).await? {
                allowed.insert(candidate.clone(), *standing);
            }
        }
        Ok(allowed)
    }

    /// What a caller is told who has the right to none of the candidates.
    async fn refusal(
        &self,
        user: &User,
        right: Right,
        name: &EnvironmentName,
        candidates: &Candidates,
    ) -> Result<Failure, Failure> {
        if self.allows(user, Question::ListAll).await? && candidates.is_empty() {
            let message = format!("there is no environment `{name}`");
            return Ok(Failure::new(ErrorKind::NotFound, message).with_hint("skpr list"));
        }
        if right != Right::See {
            if candidates.is_empty() {
                self.allows(user, Question::Anywhere(Right::See, name)).await?;
            }
            if !self.allowed(user, Right::See, candidates).await?.is_empty() {
                let message = format!("you may see `{name}`, and not {}", deed(right));
                return Ok(Failure::new(ErrorKind::NotAllowed, message).with_hint("skpr whoami"));
            }
        }
        Ok(not_allowed(right, name))
    }
}

fn choose(name: &EnvironmentName, allowed: Candidates) -> Result<EnvironmentKey, Failure> {
    let most = allowed.values().max();
    let mut meant = allowed.iter().filter(|(_, standing)| Some(*standing) == most).map(|(key, _)| key);
    match (meant.next(), meant.next()) {
        (Some(only), None) => Ok(only.clone()),
        (Some(first), Some(_)) => {
            let namespaces: Vec<_> = allowed.keys().map(|key| format!("`{}`", key.namespace)).collect();
            let message =
                format!("`{name}` is ambiguous: it exists in the namespaces {}", namespaces.join(", "));
            let hint = format!("say which: --namespace {}", first.namespace);
            Err(Failure::new(ErrorKind::Usage, message).with_hint(hint))
        }
        // Whoever calls has made sure that there is one.
        (None, _) => Err(not_allowed(Right::See, name)),
    }
}

fn deed(right: Right) -> &'static str {
    match right {
        Right::See => "see it",
        Right::ReadLogs => "read its logs",
        Right::ReadMetrics => "read its metrics",
        Right::Change => "deploy to it",
        Right::Delete => "delete it",
        Right::Exec => "run anything in it",
        Right::Files => "read and write its files",
        Right::Cron => "run, suspend or resume its tasks",
    }
}

fn not_allowed(right: Right, name: &EnvironmentName) -> Failure {
    let may = match right {
        Right::See => "see",
        Right::ReadLogs => "read the logs of",
        Right::ReadMetrics => "read the metrics of",
        Right::Change => "deploy to",
        Right::Delete => "delete",
        Right::Exec => "run anything in",
        Right::Files => "read and write the files of",
        Right::Cron => "run, suspend or resume the tasks of",
    };
    let message = format!("there is no environment `{name}` that you may {may}");
    Failure::new(ErrorKind::NotAllowed, message).with_hint("skpr list")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::auth::tests::key;

    /// A grant as a caller would have got it.
    pub(crate) fn granted<R>(user: &str, environment: &EnvironmentKey) -> Grant<R> {
        let user = Arc::new(User { name: user.to_owned(), ..User::default() });
        Grant::new(&user, environment.clone())
    }

    fn choice(allowed: &[(&EnvironmentKey, Standing)]) -> Result<EnvironmentKey, Failure> {
        let name = EnvironmentName::parse("web", "prod").unwrap();
        choose(&name, allowed.iter().map(|(key, standing)| ((*key).clone(), *standing)).collect())
    }

    #[test]
    fn one_allowed_is_chosen_and_two_are_named() {
        let (a, b) = (key("a", "web", "prod"), key("b", "web", "prod"));
        for standing in [Standing::History, Standing::Runs, Standing::Managed] {
            assert_eq!(choice(&[(&a, standing)]), Ok(a.clone()));
            let failure = choice(&[(&a, standing), (&b, standing)]).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Usage);
            assert!(failure.message.contains("`a`, `b`"), "{failure}");
            assert!(failure.hint.unwrap().contains("--namespace a"));
        }
    }

    #[test]
    fn what_is_only_history_or_only_a_label_locks_nobody_out() {
        let (ours, foreign) = (key("sites", "web", "prod"), key("mallory", "web", "prod"));
        for (mine, theirs) in [
            (Standing::Runs, Standing::History),
            (Standing::Managed, Standing::Runs),
            (Standing::Managed, Standing::History),
        ] {
            assert_eq!(choice(&[(&foreign, theirs), (&ours, mine)]), Ok(ours.clone()));
        }
    }
}
