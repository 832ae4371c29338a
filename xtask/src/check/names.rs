//! Names that have a standard word, see CONTRIBUTING.md. Only declarations are searched: the words
//! themselves are ordinary English.

use std::path::Path;

use anyhow::{Result, ensure};

use super::docs::each_source;

/// Words before a declared name.
const KEYWORDS: [&str; 8] = ["struct", "enum", "trait", "type", "fn", "mod", "const", "static"];

/// Names and their replacements.
const STANDARD: [(&str, &str); 40] = [
    ("Desk", "ServiceIndex, WorkQueue"),
    ("take_due", "pop_ready"),
    ("look_at", "reconcile"),
    ("carry_out", "apply"),
    ("Book", "PodTracker"),
    ("Hands", "PodClient"),
    ("Pace", "RateLimiter"),
    ("Suspect", "Candidate"),
    ("Naked", "MissingSidecar"),
    ("naked", "without_sidecar"),
    ("Feed", "Broadcaster"),
    ("Backlog", "PendingEvents"),
    ("follow", "watch"),
    ("Seen", "WatchEvent"),
    ("Trouble", "WatchHealth"),
    ("Keeper", "CaController, CrdController"),
    ("Situation", "InjectionContext"),
    ("Surroundings", "HostEnvironment, CheckContext"),
    ("Live", "ClusterSnapshot"),
    ("Verdict", "AdmissionDecision"),
    ("Creators", "AllowedUsers"),
    ("Turns", "AdmissionQueue"),
    ("NoTurn", "QueueFull"),
    ("Census", "SidecarCounter"),
    ("Followers", "StaleSidecars"),
    ("Outage", "MissedUpdates"),
    ("Ledger", "QuorumTracker"),
    ("Wires", "Connections"),
    ("campaign", "run_election"),
    ("obey", "handle_command"),
    ("Served", "ServedKind"),
    ("known_at_last", "wait_synced"),
    ("sent_anew", "replace_sent_hash"),
    ("Bed", "TestCluster, Fixture"),
    ("bed", "fixture"),
    ("World", "Fixture"),
    ("Fate", "Fault"),
    ("patience", "timeout"),
    ("PATIENCE", "TIMEOUT"),
    ("Plane", "TestEnv"),
];

/// Declarations that keep their name: these words have their own meaning there.
const KEPT: [(&str, &str); 2] = [("scheduler/src/engine", ""), ("xtask/src/check/names.rs", "")];

/// Fails with every declaration of a name that has a standard word.
///
/// # Errors
/// When there is one, or a source file cannot be read.
pub(crate) fn check(root: &Path, folders: impl Iterator<Item = &'static str>) -> Result<()> {
    let mut offences = Vec::new();
    each_source(root, folders, &mut |name, text| {
        offences.extend(offences_of(name, text));
        Ok(())
    })?;
    ensure!(offences.is_empty(), "names:\n  {}", offences.join("\n  "));
    Ok(())
}

fn offences_of(file: &str, text: &str) -> Vec<String> {
    let is_kept = |name: &str| {
        KEPT.iter().any(|(path, kept)| file.starts_with(path) && (kept.is_empty() || *kept == name))
    };
    let mut offences = Vec::new();
    for (line, code) in (1..).zip(text.lines()) {
        let found = declared(code).and_then(|name| STANDARD.iter().find(|(old, _)| *old == name));
        if let Some((name, standard)) = found.filter(|(name, _)| !is_kept(name)) {
            offences
                .push(format!("{file}:{line} declares {name}; the standard word is {standard}"));
        }
    }
    offences
}

/// The name that a line declares.
fn declared(line: &str) -> Option<&str> {
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let first = line.trim_start();
    if first.starts_with("//") {
        return None;
    }
    words.find(|word| KEYWORDS.contains(word))?;
    words.next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_name_with_a_standard_word_is_found() {
        let found = |text: &str| offences_of("sentry/src/ca.rs", text).len();
        assert_eq!(found("pub(crate) struct Keeper {\n    async fn campaign(&self) {}\n}"), 2);
        assert_eq!(found("mod bed;"), 1);
        assert_eq!(found("struct Controller; // once struct Keeper\nlet bed = Keeper::new();"), 0);
        assert_eq!(found("// fn campaign"), 0);
        assert!(offences_of("scheduler/src/engine/pool.rs", "fn take_due() {").is_empty());
    }
}
