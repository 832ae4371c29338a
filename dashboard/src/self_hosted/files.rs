//! Objects of `dapr.io` in files, redacted as they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use resources::GROUP;
use serde_json::Value;

use crate::model::kind::Kind;
use crate::model::process::{NAMESPACE, Sidecar};
use crate::model::resource::Resource;
use crate::model::{Key, Watched};

/// Files of one folder that are read.
const MAX_FILES: usize = 1_000;
/// Bytes of one file.
const MAX_BYTES: u64 = 1024 * 1024;

/// The objects of files. Start at [`Objects::read_folder`].
#[derive(Debug, Default)]
pub(super) struct Objects {
    kinds: BTreeMap<Kind, Found>,
    /// Names of the Configurations of files.
    configurations: BTreeMap<PathBuf, String>,
}

/// The objects of one kind, the files that they are from, and the first failure.
#[derive(Debug, Default)]
struct Found {
    objects: BTreeMap<Key, FromFile>,
    failure: Option<String>,
}

#[derive(Debug)]
struct FromFile {
    resource: Resource,
    file: PathBuf,
    /// The namespace that it names.
    namespace: Option<String>,
}

impl Objects {
    /// Reads the files of a folder, as daprd 1.18 does: those named `.yaml` or `.yml`, without
    /// folders in it. A missing folder is empty.
    pub(super) fn read_folder(&mut self, folder: &Path) {
        let mut files = match fs::read_dir(folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return self.fail(Kind::Component, format!("{}: {error}", folder.display()));
            }
        };
        files.retain(|file| {
            let end = file.extension().map(std::ffi::OsStr::to_ascii_lowercase);
            end.is_some_and(|end| end == "yaml" || end == "yml")
        });
        files.sort_unstable();
        if files.len() > MAX_FILES {
            let words = format!("{} has more than {MAX_FILES} files", folder.display());
            self.fail(Kind::Component, words);
        }
        for file in files.iter().take(MAX_FILES) {
            match read(file) {
                // A Configuration takes effect by the flag --config alone.
                Ok(objects) => self.add(file, objects, |kind| kind != Kind::Configuration),
                Err(why) => self.fail(Kind::Component, format!("{}: {why}", file.display())),
            }
        }
    }

    /// Reads the file of a Configuration. A missing file has none.
    pub(super) fn read_configuration(&mut self, file: &Path) {
        match read(file) {
            Ok(objects) => self.add(file, objects, |kind| kind == Kind::Configuration),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(why) => self.fail(Kind::Configuration, format!("{}: {why}", file.display())),
        }
    }

    /// Name of the Configuration in a file.
    pub(super) fn configuration(&self, file: &Path) -> Option<&str> {
        self.configurations.get(file).map(String::as_str)
    }

    /// The objects of each kind, with the sidecars that read them.
    pub(super) fn into_kinds(mut self, sidecars: &[Sidecar]) -> BTreeMap<Kind, Watched<Resource>> {
        let watched = Kind::ALL.into_iter().map(|kind| {
            let found = self.kinds.remove(&kind).unwrap_or_default();
            let objects = found.objects.into_iter().map(|(key, object)| {
                let readers = object.readers(sidecars);
                (key, Resource { readers: Some(readers), ..object.resource })
            });
            (kind, Watched::of(objects, found.failure))
        });
        watched.collect()
    }

    fn add(&mut self, file: &Path, objects: Vec<(Kind, Value)>, wanted: impl Fn(Kind) -> bool) {
        for (kind, object) in objects.into_iter().filter(|(kind, _)| wanted(*kind)) {
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
            let namespace = namespace.filter(|name| !name.is_empty()).map(str::to_owned);
            let resource =
                Resource { namespace: NAMESPACE.to_owned(), ..Resource::read(kind, &object) };
            if kind == Kind::Configuration {
                self.configurations.insert(file.to_owned(), resource.name.clone());
            }
            let found = self.kinds.entry(kind).or_default();
            let key = (resource.namespace.clone(), resource.name.clone());
            if let Some(other) = found.objects.get(&key) {
                let words = format!(
                    "{} {} is in {} and in {}; the first is shown",
                    kind.name(),
                    resource.name,
                    other.file.display(),
                    file.display()
                );
                self.fail(kind, words);
            } else {
                found.objects.insert(key, FromFile { resource, file: file.to_owned(), namespace });
            }
        }
    }

    fn fail(&mut self, kind: Kind, words: String) {
        self.kinds.entry(kind).or_default().failure.get_or_insert(words);
    }
}

impl FromFile {
    /// App ids of the sidecars that read it.
    fn readers(&self, sidecars: &[Sidecar]) -> BTreeSet<String> {
        let folder = self.file.parent().unwrap_or(&self.file);
        let reads = |sidecar: &&Sidecar| sidecar.reads(folder, self.namespace.as_deref());
        sidecars.iter().filter(reads).map(|sidecar| sidecar.pod.app_id().to_owned()).collect()
    }
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it has more than {MAX_BYTES} bytes")]
    Large,
    #[error("it is not YAML: {0}")]
    Yaml(String),
}

fn read(file: &Path) -> Result<Vec<(Kind, Value)>, ReadError> {
    let mut text = String::new();
    File::open(file)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(ReadError::Large);
    }
    parse(&text)
}

/// The objects of `dapr.io` of a text of one document or several; other objects are left out.
fn parse(text: &str) -> Result<Vec<(Kind, Value)>, ReadError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        // The other lines of the error quote the file, which may contain a secret.
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default();
        ReadError::Yaml(first.trim_start_matches("error: ").to_owned())
    })?;
    let objects = documents.into_iter().filter_map(|object| {
        let group = object.get("apiVersion").and_then(Value::as_str)?.split('/').next()?;
        let name = object.get("kind").and_then(Value::as_str)?;
        let kind = Kind::ALL.into_iter().find(|kind| group == GROUP && kind.name() == name)?;
        Some((kind, object))
    });
    Ok(objects.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str) -> String {
        format!("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\n")
    }

    fn read_of(files: &[(&str, &str)]) -> Watched<Resource> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut objects = Objects::default();
        objects.read_folder(folder.path());
        objects.into_kinds(&[]).remove(&Kind::Component).unwrap()
    }

    #[test]
    fn documents_of_other_kinds_and_files_of_other_names_are_left_out() {
        let text = format!(
            "{}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n---\n{}",
            component("a"),
            component("b").replace("name: b", "name: b, namespace: prod")
        );
        let found = read_of(&[("a.yaml", &text), ("b.txt", &component("c"))]);
        let names: Vec<_> = found.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(found.failure, None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_without_its_text() {
        let found = read_of(&[("a.yaml", "password: [pl4nted"), ("b.yaml", &component("b"))]);
        let failure = found.failure.as_deref().unwrap();
        assert!(failure.contains("a.yaml: it is not YAML"), "{failure}");
        assert!(!failure.contains("pl4nted"), "{failure}");
        assert_eq!(found.iter().count(), 1, "the others are shown");
    }

    #[test]
    fn an_object_of_two_files_is_shown_once_and_said() {
        let found = read_of(&[("a.yaml", &component("a")), ("b.yaml", &component("a"))]);
        assert_eq!(found.iter().count(), 1);
        assert!(found.failure.as_deref().unwrap().contains("the first is shown"));
    }

    #[test]
    fn a_file_of_the_limit_is_read_and_one_byte_more_is_not() {
        let of = |bytes: usize| {
            let text = component("a");
            let text = format!("{text}#{}", "a".repeat(bytes - text.len() - 1));
            let found = read_of(&[("a.yaml", &text)]);
            (found.iter().count(), found.failure.is_some())
        };
        let limit = usize::try_from(MAX_BYTES).unwrap();
        assert_eq!(of(limit), (1, false));
        assert_eq!(of(limit + 1), (0, true));
    }

    #[test]
    fn a_folder_has_a_limit_and_says_so() {
        let of = |number: usize| {
            let files: Vec<_> = (0..number).map(|n| format!("{n:05}.yaml")).collect();
            let files: Vec<_> = files.iter().map(|name| (name.as_str(), "")).collect();
            read_of(&files).failure
        };
        assert_eq!(of(MAX_FILES), None);
        assert!(of(MAX_FILES + 1).unwrap().contains("more than 1000 files"));
    }
}
