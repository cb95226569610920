//! Environments as names of hosts, for stock SSH clients: `ENV.PROJECT.skpr`.

use crate::error::usage;
use skpr_proto::{EnvironmentName, Failure};

/// What every such name ends with. It is no domain, so that no other host is meant.
pub(crate) const SUFFIX: &str = "skpr";

/// The host's name of an environment.
pub(crate) fn host_of(environment: &EnvironmentName) -> String {
    format!("{}.{}.{SUFFIX}", environment.environment, environment.project)
}

/// The environment of a host's name.
pub(crate) fn parse_host(host: &str) -> Result<EnvironmentName, Failure> {
    let invalid = || {
        let shown: String = host.chars().take(100).collect();
        usage(format!("`{}` is no host of skpr", crate::terminal::clean(&shown)))
            .with_hint(format!("hosts are ENV.PROJECT.{SUFFIX}, such as dev.shop.{SUFFIX}"))
    };
    let mut parts = host.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(environment), Some(project), Some(SUFFIX), None) => {
            EnvironmentName::parse(project, environment).map_err(|_| invalid())
        }
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skpr_proto::ErrorKind;

    #[test]
    fn a_host_is_an_environment_and_back() {
        let environment = parse_host("dev.commit-weather.skpr").unwrap();
        assert_eq!(environment.to_string(), "commit-weather/dev");
        assert_eq!(host_of(&environment), "dev.commit-weather.skpr");
    }

    #[test]
    fn forged_names_are_none() {
        let long = format!("{}.shop.skpr", "a".repeat(10_000));
        let forged = [
            "",
            "skpr",
            ".skpr",
            "..skpr",
            "dev.skpr",
            "dev.shop",
            "dev.shop.skpr.",
            "a.dev.shop.skpr",
            "Dev.shop.skpr",
            "-oProxyCommand=x.shop.skpr",
            "../x.shop.skpr",
            "dev.shop.skpr\n",
            "\u{1b}[2J",
            &long,
        ];
        for host in forged {
            let failure = parse_host(host).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Usage, "{host:.40}");
            assert!(!failure.message.contains(['\u{1b}', '\n']) && failure.message.len() < 200);
        }
    }
}
