//! Whose a domain is: one leads to one environment. Pure, and the one rule for whoever asks for a domain, through the API
//! or by an object of its own.
//!
//! * Whoever serves a domain keeps it, however old another is that asks for it as well.
//! * Where nobody serves it, whoever asked before keeps it, and of two who ask the older environment.

use crate::environment::EnvironmentKey;
use crate::inventory::Managed;
use jiff::Timestamp;
use skpr_proto::manifest::Domain;

/// An environment that asks for domains.
pub(crate) struct Asking<'a> {
    pub(crate) key: &'a EnvironmentKey,
    pub(crate) domains: &'a [Domain],
    /// Those that it has asked for already, and those that lead to it: none of an environment that is not there yet.
    pub(crate) before: &'a [Domain],
    pub(crate) serves: &'a [Domain],
    pub(crate) created: Option<Timestamp>,
}

/// Those of its domains that another environment has.
pub(crate) fn taken<'a>(
    asking: &Asking<'_>,
    environments: impl Iterator<Item = (&'a EnvironmentKey, &'a Managed)>,
) -> Vec<Domain> {
    if asking.domains.is_empty() {
        return vec![];
    }
    let mut taken = vec![];
    for (key, managed) in environments.filter(|(key, _)| *key != asking.key) {
        let asks = managed.settings.domains.as_deref().unwrap_or_default();
        for domain in asking.domains {
            let has = (managed.serves.contains(domain), asks.contains(domain));
            if has == (false, false) {
                continue;
            }
            let theirs = rank(has, managed.created, key);
            let mine = (
                asking.serves.contains(domain),
                asking.before.contains(domain) || asking.serves.contains(domain),
            );
            if theirs < rank(mine, asking.created, asking.key) && !taken.contains(domain) {
                taken.push(domain.clone());
            }
        }
    }
    taken
}

type Rank<'a> = ((bool, bool), (bool, Option<Timestamp>), &'a EnvironmentKey);

/// The lowest has the domain. Each environment has a rank of its own, so that of two never both or none have it.
fn rank((serves, asks): (bool, bool), created: Option<Timestamp>, key: &EnvironmentKey) -> Rank<'_> {
    ((!serves, !asks), (created.is_none(), created), key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::tests::key;
    use std::collections::BTreeMap;

    fn domains(names: &[&str]) -> Vec<Domain> {
        names.iter().map(|name| Domain::parse(name).unwrap()).collect()
    }

    /// Who has `a.example.com`, of environments that ask for it or serve it, and were made at a second.
    fn holders(environments: &[(&str, bool, bool, i64)]) -> Vec<String> {
        let all: BTreeMap<EnvironmentKey, Managed> = environments
            .iter()
            .map(|(name, asks, serves, second)| {
                let mut managed = Managed::default();
                managed.settings.domains = asks.then(|| domains(&["a.example.com"]));
                managed.serves = if *serves { domains(&["a.example.com"]) } else { vec![] };
                managed.created = Timestamp::from_second(*second).ok();
                (key("sites", "shop", name), managed)
            })
            .collect();
        let has = |(key, managed): &(&EnvironmentKey, &Managed)| {
            let wanted = managed.settings.domains.as_deref().unwrap_or_default();
            let asking = Asking {
                key,
                domains: wanted,
                before: wanted,
                serves: &managed.serves,
                created: managed.created,
            };
            !wanted.is_empty() && taken(&asking, all.iter()).is_empty()
        };
        all.iter().filter(has).map(|(key, _)| key.name.environment.to_string()).collect()
    }

    #[test]
    fn one_environment_has_a_domain() {
        assert_eq!(holders(&[("a", true, false, 2), ("b", true, false, 1)]), ["b"]);
        assert_eq!(holders(&[("a", true, false, 1), ("b", true, false, 1)]), ["a"]);
        // An older one that comes to ask for it does not take it from the one that it leads to.
        assert_eq!(holders(&[("a", true, false, 1), ("b", true, true, 2)]), ["b"]);
        // Served by both for a moment, by two who did not know of each other.
        assert_eq!(holders(&[("a", true, true, 1), ("b", true, true, 2)]), ["a"]);
        // Given up, and still leading there.
        assert_eq!(holders(&[("a", true, false, 1), ("b", false, true, 2)]), [""; 0]);
    }

    #[test]
    fn only_what_is_contested_is_taken_and_whoever_comes_gets_nothing_that_is_asked_for() {
        let mut other = Managed::default();
        other.settings.domains = Some(domains(&["a.example.com", "b.example.com"]));
        let all = [(key("sites", "shop", "z"), other)];
        let wanted = domains(&["c.example.com", "b.example.com"]);
        let coming = key("sites", "shop", "a");
        let asking = Asking { key: &coming, domains: &wanted, before: &[], serves: &[], created: None };
        assert_eq!(
            taken(&asking, all.iter().map(|(key, managed)| (key, managed))),
            domains(&["b.example.com"])
        );
        // What leads to it, it keeps, whoever else asks for it.
        let asking = Asking { serves: &wanted, ..asking };
        assert_eq!(taken(&asking, all.iter().map(|(key, managed)| (key, managed))), vec![]);
    }
}
