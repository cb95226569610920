//! What a run starts: a task's command, and what it is told of itself. Pure.

/// The variables that name its task and itself.
pub const TASK: &str = "SKPR_TASK";
pub const RUN: &str = "SKPR_RUN";

const SHELL: &str = "/bin/sh";
/// What the shell calls itself where it is given arguments.
const NAME: &str = "skpr";

/// The words that a task's line is started by, with what a user puts behind it, each as one word.
pub fn command(line: &str, arguments: &[String]) -> Vec<String> {
    let own = match arguments {
        [] => vec![line.to_owned()],
        _ => vec![format!("{line} \"$@\""), NAME.to_owned()],
    };
    let shell = [SHELL.to_owned(), "-c".to_owned()];
    shell.into_iter().chain(own).chain(arguments.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_behind_a_line_is_one_word_each() {
        let words = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
            command("drush cron", &arguments)
        };
        assert_eq!(words(&[]), ["/bin/sh", "-c", "drush cron"]);
        let expected = ["/bin/sh", "-c", "drush cron \"$@\"", "skpr", "a b", "-x"];
        assert_eq!(words(&["a b", "-x"]), expected);
    }
}
