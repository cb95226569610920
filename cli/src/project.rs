//! The project that the user works in: its `.skpr.yml`, read strictly, and the version that git knows its files by.

mod version;

pub(crate) use version::Described;

use crate::error::{did_you_mean, usage};
use crate::terminal::clean;
use skpr_proto::manifest::{Environment, FILE_NAME, Manifest};
use skpr_proto::{EnvironmentName, ErrorKind, Failure};
use std::path::{Path, PathBuf};

pub(crate) struct Project {
    path: PathBuf,
    pub manifest: Manifest,
}

impl Project {
    /// The nearest one at or above the working directory.
    pub(crate) fn here() -> Result<Project, Failure> {
        let path = Project::find()?;
        Ok(Project { manifest: Manifest::load(&path)?, path })
    }

    /// Where the nearest one is described.
    pub(crate) fn find() -> Result<PathBuf, Failure> {
        let start = std::env::current_dir().map_err(|error| {
            Failure::new(ErrorKind::Failed, format!("the working directory cannot be found: {error}"))
        })?;
        Manifest::find(&start).ok_or_else(|| {
            let missing = format!("there is no {FILE_NAME} in `{}` or above", start.display());
            Failure::new(ErrorKind::InvalidConfiguration, missing)
                .with_hint("go into the project's directory; README.md shows how a first .skpr.yml looks")
        })
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// The version of the files as they are.
    pub(crate) fn describe(&self) -> Result<Described, Failure> {
        version::describe(self.directory())
    }

    /// The settings of an environment, with defaults filled in.
    pub(crate) fn settings_of(&self, name: &EnvironmentName) -> Result<Environment, Failure> {
        let path = self.path.display();
        if self.manifest.project != name.project {
            let other =
                format!("`{path}` describes the project `{}`, not `{}`", self.manifest.project, name.project);
            return Err(usage(other).with_hint(format!("go into the directory of `{}`", name.project)));
        }
        self.manifest.resolve(&name.environment).ok_or_else(|| {
            let known = || self.manifest.environments.keys().map(|name| name.as_str());
            let hint = match did_you_mean(name.environment.as_str(), known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let known: Vec<String> = known().map(|name| format!("`{name}`")).collect();
                    format!("it describes {}", known.join(", "))
                }
            };
            let message = format!("`{path}` describes no environment `{}`", name.environment);
            Failure::new(ErrorKind::NotFound, clean(&message)).with_hint(clean(&hint))
        })
    }
}
