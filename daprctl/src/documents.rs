//! Completion scripts and manual pages.

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::config::{Command, CompletionShell};

/// The manual pages cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("write manual pages into {}", folder.display())]
pub struct ManError {
    folder: PathBuf,
    source: io::Error,
}

/// The completion script of a shell.
pub(crate) fn completion(shell: CompletionShell) -> String {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
        CompletionShell::PowerShell => Shell::PowerShell,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Command::command(), "daprctl", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes the manual pages into a folder, which is created.
///
/// # Errors
/// The folder cannot be created or written.
pub(crate) fn man(folder: &Path) -> Result<(), ManError> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Command::command(), folder))
        .map_err(|source| ManError { folder: folder.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(CompletionShell::Bash, "complete -F _daprctl")]
    #[case(CompletionShell::Zsh, "#compdef daprctl")]
    #[case(CompletionShell::Fish, "complete -c daprctl")]
    #[case(CompletionShell::PowerShell, "Register-ArgumentCompleter")]
    fn each_shell_has_a_script_that_knows_the_commands(
        #[case] shell: CompletionShell,
        #[case] start: &str,
    ) {
        let script = completion(shell);
        assert!(script.contains(start), "{script}");
        for word in ["sidecars", "dashboard", "kubeconfig", "completion"] {
            assert!(script.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn each_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();
        man(&folder.path().join("man1")).unwrap();
        for page in ["daprctl.1", "daprctl-check.1", "daprctl-sidecars.1", "daprctl-dashboard.1"] {
            let text = std::fs::read_to_string(folder.path().join("man1").join(page)).unwrap();
            assert!(text.contains(".SH NAME"), "{page}: {text}");
        }
    }

    /// Every command, flag and default.
    #[test]
    fn help_is_as_committed() {
        fn add(command: &mut clap::Command, text: &mut String) {
            text.push_str(&command.render_long_help().to_string());
            text.push('\n');
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                add(sub, text);
            }
        }
        let mut command = Command::command().term_width(100);
        command.build();
        let mut text = String::new();
        add(&mut command, &mut text);
        insta::assert_snapshot!(text.replace(runtime::VERSION, "VERSION"));
    }

    #[test]
    fn the_definition_of_flags_is_consistent() {
        Command::command().debug_assert();
    }
}
