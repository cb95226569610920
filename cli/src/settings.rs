//! What a command works with, resolved: flag, then `SKPR_*`, then the nearest `.skpr.yml`, then the login.
//!
//! Everything that comes from outside (variables, files) is collected in [`Surroundings`]; the rest is pure.

use crate::args::Global;
use crate::client::{Access, Endpoint, Token};
use crate::credentials::{Credentials, Directory};
use crate::error::{Error, usage};
use skpr_proto::{EnvironmentName, ErrorKind, Failure, Label};
use std::path::{Path, PathBuf};

/// The variables that skpr reads. An empty one counts as unset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    pub cluster: Option<String>,
    pub ca: Option<PathBuf>,
    pub token: Option<String>,
    pub project: Option<String>,
    pub namespace: Option<String>,
}

impl Variables {
    pub(crate) fn read() -> Self {
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Variables {
            cluster: read("SKPR_CLUSTER"),
            ca: read("SKPR_CA").map(PathBuf::from),
            token: read("SKPR_TOKEN"),
            project: read("SKPR_PROJECT"),
            namespace: read("SKPR_NAMESPACE"),
        }
    }
}

/// What `.skpr.yml` says about where a project lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Site {
    pub project: Option<String>,
    pub cluster: Option<String>,
}

/// Resolved lazily: a command that needs no cluster must not fail for lack of one.
pub(crate) struct Settings {
    global: Global,
    pub variables: Variables,
    pub directory: Directory,
    site: Result<Site, Failure>,
}

impl Settings {
    pub(crate) fn new(global: Global) -> Result<Self, Error> {
        let site = match std::env::current_dir() {
            Ok(directory) => site_above(&directory),
            // A deleted working directory holds no project.
            Err(_) => Ok(Site::default()),
        };
        Ok(Settings { global, variables: Variables::read(), directory: Directory::find()?, site })
    }

    /// The project of the environments that are named without one, if it is known.
    pub(crate) fn project(&self) -> Result<Option<Label>, Failure> {
        let (value, origin) = match (&self.global.project, &self.variables.project) {
            (Some(value), _) => (value.clone(), "--project"),
            (None, Some(value)) => (value.clone(), "SKPR_PROJECT"),
            (None, None) => match self.site.clone()?.project {
                Some(value) => (value, ".skpr.yml"),
                None => return Ok(None),
            },
        };
        Label::parse("project", &value).map(Some).map_err(|error| usage(format!("{error} (from {origin})")))
    }

    /// `environment` or `project/environment`.
    pub(crate) fn environment(&self, typed: &str) -> Result<EnvironmentName, Failure> {
        if let Some((project, environment)) = typed.split_once('/') {
            return EnvironmentName::parse(project, environment).map_err(|error| usage(error.to_string()));
        }
        let environment = Label::parse("environment", typed).map_err(|error| usage(error.to_string()))?;
        match self.project()? {
            Some(project) => Ok(EnvironmentName { project, environment }),
            None => Err(usage(format!("the project of `{environment}` is not known")).with_hint(format!(
                "say PROJECT/{environment} or --project, or work inside a project with a .skpr.yml"
            ))),
        }
    }

    /// The namespace of the environment, where it has to be told: what the command's flag says, else the variable.
    pub(crate) fn namespace(&self, flag: Option<&str>) -> Result<Option<Label>, Failure> {
        let (value, origin) = match (flag, &self.variables.namespace) {
            (Some(value), _) => (value, "--namespace"),
            (None, Some(value)) => (value.as_str(), "SKPR_NAMESPACE"),
            (None, None) => return Ok(None),
        };
        Label::parse("namespace", value).map(Some).map_err(|error| usage(format!("{error} (from {origin})")))
    }

    /// The cluster that commands talk to.
    pub(crate) fn endpoint(&self, credentials: &Credentials) -> Result<Endpoint, Failure> {
        let (value, origin) = match (&self.global.cluster, &self.variables.cluster) {
            (Some(value), _) => (value.clone(), "--cluster"),
            (None, Some(value)) => (value.clone(), "SKPR_CLUSTER"),
            (None, None) => match self.site.clone()?.cluster {
                Some(value) => (value, ".skpr.yml"),
                None => match &credentials.default {
                    Some(value) => (value.clone(), "the login"),
                    None => {
                        return Err(Failure::new(ErrorKind::NotLoggedIn, "not logged in to any cluster")
                            .with_hint("skpr login CLUSTER"));
                    }
                },
            },
        };
        Endpoint::parse(&value)
            .map_err(|failure| Failure { message: format!("{} (from {origin})", failure.message), ..failure })
    }

    /// Where to call, whom to trust and as whom.
    pub(crate) fn access(&self) -> Result<Access, Error> {
        let complete = self.variables.ca.is_some() && self.variables.token.is_some();
        let named = self.global.cluster.is_some() || self.variables.cluster.is_some();
        // With all three given, CI needs no home directory and no file in it.
        let credentials = if complete && named { Credentials::default() } else { self.directory.load()? };
        let endpoint = self.endpoint(&credentials)?;
        let stored = credentials.clusters.get(&endpoint.to_string());
        let login = format!("skpr login {endpoint}");
        let ca_pem = match (&self.variables.ca, stored) {
            (Some(path), _) => read_ca(path)?,
            (None, Some(stored)) => stored.ca_pem.clone(),
            (None, None) => {
                return Err(Failure::new(ErrorKind::NotLoggedIn, format!("not logged in to `{endpoint}`"))
                    .with_hint(if self.variables.token.is_some() {
                        format!("{login}, or name the cluster's CA file in SKPR_CA")
                    } else {
                        login
                    })
                    .into());
            }
        };
        let token = match (&self.variables.token, stored) {
            (Some(token), _) => Token::parse(token)?,
            (None, Some(stored)) => Token::parse(&stored.token)?,
            (None, None) => {
                return Err(Failure::new(ErrorKind::NotLoggedIn, format!("no token for `{endpoint}`"))
                    .with_hint(format!("{login}, or set SKPR_TOKEN"))
                    .into());
            }
        };
        Ok(Access { endpoint, ca_pem, token })
    }

    pub(crate) fn verbose(&self) -> bool {
        self.global.verbose
    }
}

/// Reads a CA file that the user named.
pub(crate) fn read_ca(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| {
        let failure = usage(format!("cannot read the CA file `{}`", path.display()));
        Error::new(failure, &error)
    })
}

/// The nearest `.skpr.yml` at or above `start`.
fn site_above(start: &Path) -> Result<Site, Failure> {
    let Some(path) =
        start.ancestors().map(|directory| directory.join(".skpr.yml")).find(|path| path.is_file())
    else {
        return Ok(Site::default());
    };
    let invalid = |what: String| {
        Failure::new(ErrorKind::InvalidConfiguration, format!("`{}`: {what}", path.display()))
            .with_hint("correct the file, or say --project and --cluster")
    };
    let text = std::fs::read_to_string(&path).map_err(|error| invalid(error.to_string()))?;
    site(&text).map_err(invalid)
}

/// Reads only where the project lives: a key that this version does not know must not keep anybody from the logs.
fn site(text: &str) -> Result<Site, String> {
    #[derive(serde::Deserialize)]
    struct Keys {
        project: Option<String>,
        cluster: Option<String>,
    }
    if text.len() > skpr_proto::manifest::MAX_BYTES {
        return Err("larger than 1 MiB".to_owned());
    }
    let keys: Keys = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    Ok(Site { project: keys.project, cluster: keys.cluster })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(global: Global, variables: Variables, site: Site) -> Settings {
        Settings {
            global,
            variables,
            directory: Directory::at(PathBuf::from("/nonexistent")),
            site: Ok(site),
        }
    }

    fn some(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn the_flag_wins_then_the_variable_then_the_file_then_the_login() {
        let site = Site { project: some("from-file"), cluster: some("file:1") };
        let variables =
            Variables { cluster: some("variable:2"), project: some("from-variable"), ..Variables::default() };
        let flags = Global { cluster: some("flag:3"), project: some("from-flag"), ..Global::default() };
        let login = Credentials { default: some("login:4"), ..Credentials::default() };
        for (flags, variables, site, cluster, project) in [
            (flags, variables.clone(), site.clone(), "flag:3", Some("from-flag")),
            (Global::default(), variables, site.clone(), "variable:2", Some("from-variable")),
            (Global::default(), Variables::default(), site, "file:1", Some("from-file")),
            (Global::default(), Variables::default(), Site::default(), "login:4", None),
        ] {
            let settings = settings(flags, variables, site);
            assert_eq!(settings.endpoint(&login).unwrap().to_string(), cluster);
            assert_eq!(settings.project().unwrap().as_ref().map(Label::as_str), project);
        }
    }

    #[test]
    fn the_namespace_comes_from_the_flag_then_the_variable() {
        let variables = Variables { namespace: some("variable"), ..Variables::default() };
        let settings = settings(Global::default(), variables, Site::default());
        assert_eq!(settings.namespace(Some("flag")).unwrap().unwrap().as_str(), "flag");
        assert_eq!(settings.namespace(None).unwrap().unwrap().as_str(), "variable");
        assert!(settings.namespace(Some("No_Name")).unwrap_err().message.contains("--namespace"));
    }

    #[test]
    fn environments_with_and_without_project() {
        let bare = settings(Global::default(), Variables::default(), Site::default());
        assert_eq!(bare.environment("shop/prod").unwrap().to_string(), "shop/prod");
        assert_eq!(bare.environment("prod").unwrap_err().kind, ErrorKind::Usage);
        for bad in ["", "/", "a/", "a/b/c", "A", "../x", "\x1b[31m"] {
            assert_eq!(bare.environment(bad).unwrap_err().kind, ErrorKind::Usage, "{bad:?}");
        }
        let in_project = settings(
            Global { project: some("shop"), ..Global::default() },
            Variables::default(),
            Site::default(),
        );
        assert_eq!(in_project.environment("prod").unwrap().to_string(), "shop/prod");
        assert_eq!(in_project.environment("blog/dev").unwrap().to_string(), "blog/dev");
    }

    #[test]
    fn only_project_and_cluster_are_read_from_the_file() {
        let read = site("project: shop\nfuture: {key: 1}\nenvironments:\n  dev: {}\n").unwrap();
        assert_eq!((read.project, read.cluster), (some("shop"), None));
        assert!(site("project: [\n").is_err());
        assert!(site(&"#".repeat(2 << 20)).is_err());
    }
}
