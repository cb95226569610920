//! What the runs of one task are named by among all others of a machine, or of a namespace.

use sha2::{Digest as _, Sha256};
use skpr_proto::{EnvironmentName, Label};

/// As long as the name of a CronJob may be: that of its Job has eleven characters more.
pub(crate) const LONGEST: usize = 52;
/// Hexadecimal digits of the hash.
const DIGITS: usize = 8;
/// Stands between environment and task, so that `x-y` of `dev` is not `y` of `dev-x`.
const BETWEEN: &str = "--";

/// `PROJECT-ENVIRONMENT--TASK`, or the start of it and a hash, where it would be too long or could be read in two ways.
///
/// `shop/dev-x` and `shop-dev/x` share names here as in all that is named `PROJECT-ENVIRONMENT`: one machine, and one
/// namespace, serve one of them.
pub fn name(environment: &EnvironmentName, task: &Label) -> String {
    let whole = format!("{}-{}{BETWEEN}{task}", environment.project, environment.environment);
    let is_clear = [&environment.environment, task].iter().all(|part| !part.as_str().contains(BETWEEN));
    if is_clear && whole.len() <= LONGEST {
        return whole;
    }
    // No part has a slash in it.
    let digest = Sha256::digest(format!("{environment}/{task}"));
    let short: String = digest.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
    // Names are ASCII.
    let start = whole.get(..whole.len().min(LONGEST - DIGITS - 1)).unwrap_or_default();
    format!("{}-{short}", start.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(project: &str, environment: &str, task: &str) -> String {
        name(&EnvironmentName::parse(project, environment).unwrap(), &Label::parse("task", task).unwrap())
    }

    #[test]
    fn a_task_is_not_taken_for_one_of_an_environment_whose_name_goes_on() {
        assert_eq!(of("shop", "dev", "drush-cron"), "shop-dev--drush-cron");
        assert_ne!(of("shop", "dev", "x-y"), of("shop", "dev-x", "y"));
        let (first, second) = (of("shop", "dev", "x--y"), of("shop", "dev--x", "y"));
        assert!(first.starts_with("shop-dev--x--y-") && second.starts_with("shop-dev--x--y-"), "{first}");
        assert_ne!(first, second);
        assert_ne!(of("shop", "dev--x", "y--z"), of("shop", "dev", "x--y--z"));
    }

    #[test]
    fn names_that_are_too_long_are_cut_and_stay_apart() {
        let long = "a".repeat(42);
        assert_eq!(of("shop", "dev", &long).len(), LONGEST);
        let names = [
            of("shop", "dev", &format!("{long}b")),
            of("shop", "dev", &format!("{long}c")),
            of("shop", "dev", &format!("x-{long}")),
            of("shop", "dev-x", &long),
            of("shop", "dev", &format!("{}-{}", "a".repeat(32), "b".repeat(20))),
        ];
        for (place, name) in names.iter().enumerate() {
            assert!(name.len() <= LONGEST && Label::parse("name", name).is_ok(), "{name}");
            // What Kubernetes and we put behind it still makes a name.
            assert!(format!("{name}-29412345").len() <= 63);
            assert!(!names[..place].contains(name), "{name}");
        }
    }
}
