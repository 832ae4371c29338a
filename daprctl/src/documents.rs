//! What the command says about itself: completion scripts and manual pages.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::config::{Command, CompletionFlags, CompletionShell, ManFlags};
use crate::error::CommandError;
use crate::terminal::print;

/// Prints the completion script of a shell and returns true.
///
/// # Errors
/// Standard output is closed.
pub fn completion(flags: &CompletionFlags) -> Result<bool, CommandError> {
    print(&script(flags.shell))?;
    Ok(true)
}

fn script(shell: CompletionShell) -> String {
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

/// Writes the manual pages and returns true.
///
/// # Errors
/// The folder cannot be created or written.
pub fn man(flags: &ManFlags) -> Result<bool, CommandError> {
    let written = std::fs::create_dir_all(&flags.folder)
        .and_then(|()| clap_mangen::generate_to(Command::command(), &flags.folder));
    written.map_err(|source| CommandError::Man { folder: flags.folder.clone(), source })?;
    Ok(true)
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
        let script = script(shell);
        assert!(script.contains(start), "{script}");
        for word in ["sidecars", "dashboard", "kubeconfig", "completion"] {
            assert!(script.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn each_command_has_a_manual_page() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManFlags { folder: folder.path().join("man1") }).unwrap();
        for page in ["daprctl.1", "daprctl-check.1", "daprctl-sidecars.1", "daprctl-dashboard.1"] {
            let text = std::fs::read_to_string(folder.path().join("man1").join(page)).unwrap();
            assert!(text.contains(".SH NAME"), "{page}: {text}");
        }
    }

    #[test]
    fn the_definition_of_flags_is_consistent() {
        Command::command().debug_assert();
    }
}
