//! `cargo xtask component-types`: the table of official components, from their own descriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use blackbox::environment;
use clap::Args;
use serde::Deserialize;

use crate::output::print;

mod recording;

use recording::Recording;

/// Writes crates/resources/data/component-types.txt from the metadata.yaml of each component and from
/// crates/resources/data/component-types.in.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Folder with the sources of components-contrib; by default its Go module is downloaded
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Only check whether the file is up to date
    #[arg(long)]
    check: bool,
    /// Run the official daprd with all components and record its answers first; needs root
    #[arg(long, conflicts_with = "check")]
    record: bool,
}

const MODULE: &str = "github.com/dapr/components-contrib";
const VERSION: &str = "v1.18.4";
const ADDED: &str = "crates/resources/data/component-types.in";
const WRITTEN: &str = "crates/resources/data/component-types.txt";
const HEADER: &str = "\
# What the official components of Dapr are called and which metadata they take, one line for each type and version:
#   <type>[,<other name>...] <version> : <name>[!][*] ...
# \"!\" marks a name without which daprd refused to load the component (tests/fixtures/components), \"*\" a value that is secret; a line that ends in \"?\" says that the metadata is unknown.
#
# Written by `cargo xtask component-types`, not by hand. Origin: github.com/dapr/components-contrib v1.18.4, the metadata.yaml
# of each component: type, name, version and the names of metadata; no descriptions. Which of them must be given was asked of
# daprd, and a name that could not be tried has no \"!\". What is not in those files is in component-types.in. Licence of the
# origin: Apache-2.0, Copyright The Dapr Authors.
";

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let folder = match &flags.from {
        Some(folder) => folder.clone(),
        None => blackbox::module_folder(MODULE, VERSION)?,
    };
    if flags.record {
        let descriptions = descriptions(&folder)?;
        let described = descriptions.iter().filter_map(|description| {
            let all = description.metadata.iter().flatten();
            let required = all.filter(|setting| setting.required).map(|s| s.name.clone());
            Some((description.full_type()?, description.version.clone(), required.collect()))
        });
        let added = fs::read_to_string(environment::workspace().join(ADDED)).context(ADDED)?;
        recording::record(described.collect(), &Additions::parse(&added)?)?;
    }
    work(&folder, flags.check)
}

/// Checks whether the file is up to date; prints nothing where there is no Go to download the
/// module.
pub(crate) fn check() -> Result<()> {
    if environment::find_program("go").is_none() {
        return print("Go is not installed: the data about official components is not checked");
    }
    work(&blackbox::module_folder(MODULE, VERSION)?, true)
}

fn work(folder: &Path, check: bool) -> Result<()> {
    let root = environment::workspace();
    let added = fs::read_to_string(root.join(ADDED)).context(ADDED)?;
    let text = table(&descriptions(folder)?, &Additions::parse(&added)?, &Recording::read()?);
    let file = root.join(WRITTEN);
    if check {
        ensure!(
            fs::read_to_string(&file).context(WRITTEN)? == text,
            "{WRITTEN} is not what {} gives: run `cargo xtask component-types`",
            folder.display()
        );
        return print(&format!("{WRITTEN} is what {} gives", folder.display()));
    }
    fs::write(&file, text).context(WRITTEN)
}

/// The contents of a metadata.yaml.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    #[serde(rename = "type")]
    type_: String,
    name: String,
    version: String,
    #[serde(default)]
    metadata: Option<Vec<Setting>>,
    #[serde(default)]
    authentication_profiles: Option<Vec<Profile>>,
    #[serde(default)]
    builtin_authentication_profiles: Option<Vec<Profile>>,
}

impl Description {
    /// The type of a Component; `None` for name resolution, which a Configuration configures.
    fn full_type(&self) -> Option<String> {
        match self.type_.as_str() {
            "nameresolution" => None,
            "middleware" => Some(format!("middleware.http.{}", self.name)),
            kind => Some(format!("{kind}.{}", self.name)),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Setting {
    name: String,
    /// Required by the authors' description; daprd decides whether it is.
    #[serde(default)]
    required: bool,
    #[serde(default)]
    sensitive: bool,
}

#[derive(Debug, Deserialize)]
struct Profile {
    #[serde(default)]
    name: String,
    #[serde(default)]
    metadata: Option<Vec<Setting>>,
}

/// The descriptions of every component below a folder.
fn descriptions(folder: &Path) -> Result<Vec<Description>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(descriptions(&path)?);
        } else if path.file_name().is_some_and(|name| name == "metadata.yaml") {
            // YAML has no tabs between tokens, and one of the files contains some.
            let text = fs::read_to_string(&path)?.replace('\t', " ");
            let description = serde_saphyr::from_str(&text);
            found.push(description.with_context(|| format!("read {}", path.display()))?);
        }
    }
    Ok(found)
}

/// Names of metadata and whether their values are secret.
type Names = Vec<(String, bool)>;

/// The contents of component-types.in.
#[derive(Debug, Default)]
struct Additions {
    profiles: BTreeMap<String, Names>,
    /// By type, what earlier supported releases take.
    earlier: BTreeMap<String, Names>,
    aliases: BTreeMap<String, BTreeSet<String>>,
    unknown: Vec<(String, String)>,
}

impl Additions {
    fn parse(text: &str) -> Result<Self> {
        let mut additions = Self::default();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let mut words = line.split_whitespace().map(str::to_owned);
            let mut word =
                || words.next().with_context(|| format!("{ADDED}: {line:?} is too short"));
            let (what, first) = (word()?, word()?);
            match what.as_str() {
                "profile" => {
                    additions.profiles.insert(first, words.map(marked).collect());
                }
                "earlier" => {
                    additions.earlier.insert(first, words.map(marked).collect());
                }
                "alias" => {
                    additions.aliases.entry(first).or_default().insert(word()?);
                }
                "unknown" => additions.unknown.push((first, word()?)),
                _ => {
                    bail!("{ADDED}: {line:?} begins with none of profile, earlier, alias, unknown")
                }
            }
        }
        Ok(additions)
    }

    /// All names of a type, as in the table.
    fn names(&self, type_: &str) -> String {
        let others = self.aliases.get(type_).into_iter().flatten();
        others.fold(type_.to_owned(), |names, other| names + "," + other)
    }
}

/// The name, and whether a `*` says that its value is secret.
fn marked(word: String) -> (String, bool) {
    match word.strip_suffix('*') {
        Some(name) => (name.to_owned(), true),
        None => (word, false),
    }
}

fn table(descriptions: &[Description], additions: &Additions, recording: &Recording) -> String {
    let mut lines = BTreeSet::new();
    for description in descriptions {
        let Some(type_) = description.full_type() else { continue };
        let names = additions.names(&type_);
        let required = |name: &str| recording.requires(&names, &description.version, name);
        let settings = settings(description, &type_, additions, required);
        let head = format!("{names} {} :", description.version);
        lines.insert(settings.into_iter().fold(head, |line, word| line + " " + &word));
    }
    for (type_, version) in &additions.unknown {
        lines.insert(format!("{} {version} ?", additions.names(type_)));
    }
    lines.into_iter().fold(HEADER.to_owned(), |text, line| text + &line + "\n")
}

/// The names of metadata with their marks.
fn settings(
    description: &Description,
    type_: &str,
    additions: &Additions,
    required: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut marks = BTreeMap::<&str, (bool, bool)>::new();
    let mut add = |name, required, sensitive| {
        let mark = marks.entry(name).or_default();
        *mark = (mark.0 || required, mark.1 || sensitive);
    };
    for setting in description.metadata.iter().flatten() {
        add(&setting.name, required(&setting.name), setting.sensitive);
    }
    let own = description.authentication_profiles.iter().flatten();
    let builtin = || description.builtin_authentication_profiles.iter().flatten();
    for setting in own.chain(builtin()).flat_map(|profile| profile.metadata.iter().flatten()) {
        add(&setting.name, false, setting.sensitive);
    }
    let shared = builtin().filter_map(|profile| additions.profiles.get(&profile.name));
    let earlier = additions.earlier.get(type_);
    for (name, sensitive) in shared.chain(earlier).flatten() {
        // The component's own entry for a name has precedence.
        marks.entry(name).or_insert((false, *sensitive));
    }
    let mark = |on, mark| if on { mark } else { "" };
    let mut words: Vec<_> = marks
        .into_iter()
        .map(|(name, (required, sensitive))| {
            format!("{name}{}{}", mark(required, "!"), mark(sensitive, "*"))
        })
        .collect();
    words.sort_by_key(|word| (word.to_lowercase(), word.clone()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_the_names_of_all_profiles_with_their_marks() {
        let yaml = "
type: state
name: x
version: v1
builtinAuthenticationProfiles: [{name: cloud, metadata: [{name: key, required: true}]}]
authenticationProfiles: [{title: a, metadata: [{name: password, required: true, sensitive: true}]}]
metadata:
- {name: host, required: true}
- {name: untried, required: true}
";
        let added = "# comment\n\nprofile cloud key* token*\nalias state.x state.y\n\
                     earlier state.x hosts\nunknown state.z v2\n";
        let additions = Additions::parse(added).unwrap();
        let recorded = "state.y v1\nrequired state.y v1 host : no host\n";
        let recording = Recording::parse(recorded).unwrap();
        let text = table(&[serde_saphyr::from_str(yaml).unwrap()], &additions, &recording);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let want =
            ["state.x,state.y v1 : host! hosts key password* token* untried", "state.z v2 ?"];
        assert_eq!(lines, want);
    }

    #[test]
    fn a_line_that_says_nothing_known_is_an_error() {
        for line in ["alias state.x", "nickname state.x y"] {
            let error = Additions::parse(line).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }
}
