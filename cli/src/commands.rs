//! The verbs, one file each.

mod call;
mod completion;
mod config;
mod cron;
mod delete;
mod deploy;
mod events;
mod forward;
mod info;
mod list;
mod login;
mod logout;
mod logs;
mod metrics;
mod reading;
mod release;
mod releases;
mod rollback;
#[cfg(target_os = "linux")]
mod rsync;
mod scale;
mod session;
mod ssh_config;
mod ssh_proxy;
mod summary;
mod usage;
mod validate;
mod version;
mod whoami;

use crate::args::{Arguments, Verb};
use crate::error::Error;
use crate::output::Output;
use crate::settings::Settings;

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Error> {
    // These work offline, and without a home to keep settings in.
    if let Verb::Completion(verb) = &arguments.verb {
        return completion::run(verb, output);
    }
    if let Verb::Validate(verb) = &arguments.verb {
        return validate::run(verb, output);
    }
    if let Verb::Config(verb) = &arguments.verb {
        return config::run(verb, arguments.global.project.as_deref(), output);
    }
    let settings = Settings::new(arguments.global)?;
    match arguments.verb {
        Verb::Login(verb) => login::run(verb, &settings, output).await,
        Verb::Logout(verb) => logout::run(&verb, &settings, output),
        Verb::Whoami => whoami::run(&settings, output).await,
        Verb::List(verb) => list::run(&verb, &settings, output).await,
        Verb::Info(verb) => info::run(&verb, &settings, output).await,
        Verb::Deploy(verb) => deploy::run(&verb, &settings, output).await,
        Verb::Releases(verb) => releases::run(&verb, &settings, output).await,
        Verb::Rollback(verb) => rollback::run(&verb, &settings, output).await,
        Verb::Scale(verb) => scale::run(&verb, &settings, output).await,
        Verb::Delete(verb) => delete::run(&verb, &settings, output).await,
        Verb::Events(verb) => events::run(&verb, &settings, output).await,
        Verb::Logs(verb) => logs::run(verb, &settings, output).await,
        Verb::Cron(verb) => cron::run(verb.verb, &settings, output).await,
        Verb::Shell(verb) => session::shell(verb, &settings, output).await,
        Verb::Exec(verb) => session::exec(verb, &settings, output).await,
        Verb::Forward(verb) => forward::run(verb, &settings, output).await,
        #[cfg(target_os = "linux")]
        Verb::Rsync(verb) => rsync::run(*verb, &settings, output).await,
        // The engine asks Linux to keep to a directory; stock `sftp` and `scp` work everywhere.
        #[cfg(not(target_os = "linux"))]
        Verb::Rsync(_) => Err(crate::error::usage("`skpr rsync` is there on Linux only so far")
            .with_hint("skpr ssh-config --install, then scp or sftp")
            .into()),
        Verb::SshConfig(verb) => ssh_config::run(&verb, &settings, output),
        Verb::SshProxy(verb) => ssh_proxy::run(verb, &settings, output).await,
        Verb::Metrics(verb) => metrics::run(&verb, &settings, output).await,
        Verb::Version => version::run(&settings, output).await,
        // Answered above.
        Verb::Completion(_) | Verb::Validate(_) | Verb::Config(_) => Ok(()),
    }
}
