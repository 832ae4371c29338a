//! Files and their YAML documents, with the lines at which they begin.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Bytes of one file. Rendered charts of hundreds of objects have less than one.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Documents of one file.
const MAX_DOCUMENTS: usize = 10_000;

/// Why files cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file cannot be read, or is not UTF-8.
    #[error("read {name}")]
    Read {
        /// As on the command line.
        name: String,
        /// Cause.
        source: std::io::Error,
    },
    /// A file is too large. Contains its name.
    #[error("{0} has more than {MAX_FILE_BYTES} bytes; split it")]
    Large(String),
    /// A file has too many documents. Contains its name.
    #[error("{0} has more than {MAX_DOCUMENTS} documents; split it")]
    Many(String),
}

/// A file.
#[derive(Debug)]
pub(crate) struct File {
    /// Path as given; `-` for standard input.
    pub(crate) name: String,
    /// Its documents that are not empty.
    pub(crate) documents: Vec<Document>,
}

/// A document.
#[derive(Debug)]
pub(crate) struct Document {
    /// Its first line that is neither empty nor a comment, counted from 1.
    pub(crate) line: usize,
    /// YAML between two separators.
    pub(crate) text: String,
    /// The object, or those of a `List`; the error if it is not YAML.
    pub(crate) objects: Result<Vec<Value>, String>,
}

/// Reads files.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<File>, ReadError> {
    paths.iter().map(|path| read_one(path)).collect()
}

fn read_one(path: &Path) -> Result<File, ReadError> {
    let name = path.display().to_string();
    let failed = |source| ReadError::Read { name: name.clone(), source };
    let mut text = String::new();
    let read = if name == "-" {
        std::io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)
    };
    if read.map_err(failed)? as u64 > MAX_FILE_BYTES {
        return Err(ReadError::Large(name));
    }
    let documents = split(&text);
    if documents.len() > MAX_DOCUMENTS {
        return Err(ReadError::Many(name));
    }
    Ok(File { name, documents })
}

/// The documents of a stream. A line that begins with `---` ends a document wherever it is (YAML
/// 1.2 §9.2).
pub(crate) fn split(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let (mut start, mut current) = (1, String::new());
    for (number, line) in text.lines().enumerate() {
        let marker = line.strip_prefix("---");
        if let Some(rest) = marker.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t'])) {
            documents.extend(document(start, std::mem::take(&mut current)));
            start = number + 1;
            current.push_str(rest.trim_start());
            current.push('\n');
        } else {
            current.push_str(line);
            current.push('\n');
        }
    }
    documents.extend(document(start, current));
    documents
}

/// `None` for a document without content.
fn document(start: usize, text: String) -> Option<Document> {
    let has_content = |line: &str| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    };
    let first = text.lines().position(has_content)?;
    let objects = serde_saphyr::from_str::<Value>(&text);
    // The other lines of the error quote the document, which may contain a secret.
    let first_line = |error: serde_saphyr::Error| {
        let error = error.to_string();
        error.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    };
    let objects = objects.map(expand).map_err(first_line);
    Some(Document { line: start + first, text, objects })
}

/// The items of a `List`, or the object itself.
fn expand(mut value: Value) -> Vec<Value> {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List"));
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => items,
        Some(items) => {
            if let Some(place) = value.get_mut("items") {
                *place = items;
            }
            vec![value]
        }
        None => vec![value],
    }
}

/// All objects with their places.
pub(crate) fn objects(files: &[File]) -> impl Iterator<Item = (&File, &Document, &Value)> {
    files.iter().flat_map(|file| {
        file.documents.iter().flat_map(move |document| {
            document.objects.iter().flatten().map(move |object| (file, document, object))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_know_their_lines() {
        let text = "# comment\n\na: 1\n---\n# only a comment\n--- \nb: 2\n---\n";
        let documents = split(text);
        let lines: Vec<_> = documents.iter().map(|document| document.line).collect();
        assert_eq!(lines, [3, 7]);
    }

    #[test]
    fn a_list_is_its_items() {
        let documents = split("kind: List\nitems:\n- kind: A\n- kind: B\n");
        assert_eq!(documents[0].objects.as_ref().unwrap().len(), 2);
        let other = split("kind: A\nitems: [1]\n");
        assert_eq!(other[0].objects.as_ref().unwrap()[0]["items"][0], 1);
    }

    #[test]
    fn a_template_is_no_yaml() {
        let error = split("# pl4nted\na: {{ .Values.a }}: b\n")[0].objects.clone().unwrap_err();
        assert!(error.starts_with("line 2 "), "{error}");
        assert!(!error.contains("pl4nted") && !error.contains("Values"), "{error}");
    }

    #[test]
    fn files_have_limits() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let write = |bytes: u64| {
            std::fs::write(&file, "#".repeat(usize::try_from(bytes).unwrap())).unwrap();
            read(std::slice::from_ref(&file))
        };
        assert!(write(MAX_FILE_BYTES).is_ok());
        assert!(matches!(write(MAX_FILE_BYTES + 1), Err(ReadError::Large(_))));
        let documents = |number: usize| {
            std::fs::write(&file, "---\na: 1\n".repeat(number)).unwrap();
            read(std::slice::from_ref(&file))
        };
        assert!(documents(MAX_DOCUMENTS).is_ok());
        assert!(matches!(documents(MAX_DOCUMENTS + 1), Err(ReadError::Many(_))));
    }
}
