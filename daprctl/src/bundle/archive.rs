//! The files of a bundle and their list.

use std::fmt::{Display, Write as _};
use std::io;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use crate::output::private_file;
use crate::output::words::count;

/// Name of the list in the bundle.
const CONTENTS: &str = "CONTENTS.txt";

/// Files that are written together.
#[derive(Debug, Default)]
pub(super) struct Archive {
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    name: String,
    about: String,
    /// The text, or why there is none.
    content: Result<String, String>,
}

impl Archive {
    pub(super) fn text(&mut self, name: &str, about: &str, text: String) {
        self.add(name, about, Ok(text));
    }

    pub(super) fn missing(&mut self, name: &str, about: &str, reason: &dyn Display) {
        self.add(name, about, Err(reason.to_string()));
    }

    fn add(&mut self, name: &str, about: &str, content: Result<String, String>) {
        // A pod's name has no separator; nothing of the cluster makes a path.
        let name = name.replace("..", "_");
        self.files.push(File { name, about: about.to_owned(), content });
    }

    /// The text of a file.
    #[cfg(test)]
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let file = self.files.iter().find(|file| file.name == name)?;
        file.content.as_deref().ok()
    }

    /// The list: each file, and what is in it or why it is missing.
    pub(super) fn contents(&self, now: Timestamp) -> String {
        let version = runtime::VERSION;
        let mut list = format!("Support bundle of daprctl {version}, {now}\n\n");
        for File { name, about, content } in &self.files {
            let _ = match content {
                Ok(text) => writeln!(list, "{name} ({}): {about}", count(text.len(), "byte")),
                Err(error) => writeln!(list, "{name} is missing, {about}: {error}"),
            };
        }
        list += "\nNever in a bundle: Secrets, ConfigMaps, environment variables, values of flags, payloads\n\
                 of jobs, and values of Components that are secret or not known to be public.\n\
                 Namespaces, names of apps and objects, host names and images are in it: read it\n\
                 before you share it.\n";
        list
    }

    /// Writes a tar.gz that only its owner can read.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub(super) fn write(&self, path: &Path, now: Timestamp) -> io::Result<()> {
        let file = private_file::create(path)?;
        let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let time = u64::try_from(now.as_second()).unwrap_or_default();
        let list = self.contents(now);
        append(&mut tar, CONTENTS, &list, time)?;
        for File { name, content, .. } in &self.files {
            if let Ok(text) = content {
                append(&mut tar, name, text, time)?;
            }
        }
        tar.into_inner()?.finish()?.sync_all()
    }
}

fn append(
    tar: &mut tar::Builder<impl io::Write>,
    name: &str,
    text: &str,
    time: u64,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(time);
    tar.append_data(&mut header, format!("dapr-support/{name}"), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn every_file_and_the_list_are_in_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.gz");
        let mut archive = Archive::default();
        archive.text("a/../b.json", "things", "{}".to_owned());
        archive.missing("c", "others", &"cannot list others");
        archive.write(&path, Timestamp::UNIX_EPOCH).unwrap();
        assert!(archive.write(&path, Timestamp::UNIX_EPOCH).is_err(), "no file is replaced");
        let file = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
        let mut tar = tar::Archive::new(file);
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().to_string_lossy().into_owned());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert!(!text.is_empty());
        }
        assert_eq!(names, ["dapr-support/CONTENTS.txt", "dapr-support/a/_/b.json"]);
    }
}
