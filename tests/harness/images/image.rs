//! Container images without a container daemon: docker-archive files, byte for byte the same for
//! the same input.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{Architecture, environment, process};

/// The user of every image: numeric, because `runAsNonRoot` rejects a name; no account has it.
pub const USER: &str = "65532";
/// Where programs look for certificate authorities.
const CA_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Clone, Debug)]
enum Entry {
    Folder { mode: u32 },
    Link { target: String },
    Copy { source: PathBuf, mode: u32 },
    Bytes { content: Vec<u8>, mode: u32 },
}

/// An image of one layer, to be written.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    env: Vec<String>,
    folder: String,
    user: String,
    architecture: &'static str,
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// An empty image named `<repository>:<tag>`. Not `latest`, which the kubelet would
    /// pull.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: Vec::new(),
            env: vec!["PATH=/usr/local/bin:/usr/bin:/bin:/".to_owned()],
            folder: "/".to_owned(),
            user: USER.to_owned(),
            architecture: Architecture::here().map_or(std::env::consts::ARCH, Architecture::name),
            entries: BTreeMap::new(),
        }
    }

    /// Its name with the tag.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The processor of its programs, if it is not this machine's.
    #[must_use]
    pub fn architecture(mut self, architecture: Architecture) -> Self {
        self.architecture = architecture.name();
        self
    }

    /// The command it runs.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// The folder its command starts in.
    #[must_use]
    pub fn working_folder(mut self, folder: &str) -> Self {
        folder.clone_into(&mut self.folder);
        self
    }

    /// A file of this machine at another path; symbolic links are followed, the mode is kept.
    ///
    /// # Errors
    /// When the file does not exist.
    pub fn file(mut self, source: impl AsRef<Path>, target: &str) -> Result<Self> {
        self.copy(source.as_ref(), target)?;
        Ok(self)
    }

    /// A file with that content, readable by all.
    #[must_use]
    pub fn bytes(mut self, content: impl Into<Vec<u8>>, target: &str) -> Self {
        self.put(target, Entry::Bytes { content: content.into(), mode: 0o644 });
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(mut self, target: &str, path: &str) -> Self {
        self.put(path, Entry::Link { target: target.to_owned() });
        self
    }

    /// A world-writable folder, such as `/tmp`.
    #[must_use]
    pub fn shared_folder(mut self, path: &str) -> Self {
        self.put(path, Entry::Folder { mode: 0o1777 });
        self
    }

    /// A folder of this machine with all that is below it, except what `skip` names; a `*` at the
    /// end of a name stands for the rest.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub fn tree(mut self, source: &Path, target: &str, skip: &[&str]) -> Result<Self> {
        self.copy_tree(source, target, skip)?;
        Ok(self)
    }

    /// The certificate authorities of this machine, if it has any.
    #[must_use]
    pub fn ca_roots(mut self) -> Self {
        if Path::new(CA_ROOTS).is_file() {
            self.put(CA_ROOTS, Entry::Copy { source: CA_ROOTS.into(), mode: 0o644 });
        }
        self
    }

    /// A program of this machine at `target`, with its loader and shared libraries
    /// at their own paths.
    ///
    /// # Errors
    /// When it or one of them does not exist.
    pub fn program(mut self, source: &Path, target: &str) -> Result<Self> {
        self.copy(source, target)?;
        self.libraries_of(source)?;
        Ok(self)
    }

    /// The shared libraries of the modules in a folder of this machine; a module that lacks a
    /// library is skipped, as the program that loads it does.
    ///
    /// # Errors
    /// When a named library does not exist.
    pub fn libraries_below(mut self, folder: &Path) -> Result<Self> {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Ok(list) = libraries(&entry.path()) {
                list.iter().try_for_each(|library| self.copy_in_place(library))?;
            }
        }
        Ok(self)
    }

    fn copy_in_place(&mut self, file: &Path) -> Result<()> {
        let target = file.to_str().context("a library's path is no UTF-8")?.to_owned();
        self.copy(file, &target)
    }

    fn libraries_of(&mut self, program: &Path) -> Result<()> {
        libraries(program)?.iter().try_for_each(|library| self.copy_in_place(library))
    }

    fn copy(&mut self, source: &Path, target: &str) -> Result<()> {
        let real =
            fs::canonicalize(source).with_context(|| format!("find {}", source.display()))?;
        let mode = fs::metadata(&real)?.permissions().mode();
        let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        self.put(target, Entry::Copy { source: real, mode });
        Ok(())
    }

    fn copy_tree(&mut self, source: &Path, target: &str, skip: &[&str]) -> Result<()> {
        let list = fs::read_dir(source).with_context(|| format!("read {}", source.display()))?;
        for entry in list {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().context("a file name is no UTF-8")?;
            if skip.iter().any(|skipped| is_named(name, skipped)) {
                continue;
            }
            let (path, inside) = (entry.path(), format!("{target}/{name}"));
            let Ok(meta) = fs::metadata(&path) else { continue }; // a dangling link
            if meta.is_dir() {
                self.copy_tree(&path, &inside, skip)?;
            } else if meta.is_file() {
                self.copy(&path, &inside)?;
            }
        }
        Ok(())
    }

    /// Adds an entry and the folders above it.
    fn put(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/').to_owned();
        let mut above = Path::new(&path).parent();
        while let Some(folder) = above.filter(|folder| !folder.as_os_str().is_empty()) {
            let folder_path = folder.to_string_lossy().into_owned();
            self.entries.entry(folder_path).or_insert(Entry::Folder { mode: 0o755 });
            above = folder.parent();
        }
        self.entries.insert(path, entry);
    }

    /// Writes the archive: the layer, the configuration, the manifest.
    ///
    /// # Errors
    /// When a file of the image cannot be read or the archive cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        if let Some(parent) = archive.parent() {
            fs::create_dir_all(parent)?;
        }
        let partial = archive.with_extension("partial");
        let layer_file = archive.with_extension("layer");
        let result = self.write_parts(&layer_file, &partial);
        let _ = fs::remove_file(&layer_file);
        result.with_context(|| format!("write image {}", self.name))?;
        fs::rename(&partial, archive).with_context(|| format!("write {}", archive.display()))
    }

    fn write_parts(&self, layer_file: &Path, archive: &Path) -> Result<()> {
        let digest = self.write_layer(layer_file)?;
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": self.user,
                "Env": self.env,
                "Entrypoint": self.entrypoint,
                "WorkingDir": self.folder,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
        });
        let config = config.to_string();
        let config_name = format!("{}.json", environment::hex(&Sha256::digest(&config)));
        let layer_name = format!("{digest}.tar");
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]);

        let mut out = Builder::new(BufWriter::new(File::create(archive)?));
        append(&mut out, &config_name, 0o644, config.len() as u64, config.as_bytes())?;
        let mut layer = File::open(layer_file)?;
        layer.rewind()?;
        let size = layer.metadata()?.len();
        append(&mut out, &layer_name, 0o644, size, layer)?;
        let manifest = manifest.to_string();
        append(&mut out, "manifest.json", 0o644, manifest.len() as u64, manifest.as_bytes())?;
        out.into_inner()?.flush()?;
        Ok(())
    }

    /// Writes the layer and returns its SHA-256.
    fn write_layer(&self, file: &Path) -> Result<String> {
        let out = Hashing { inner: BufWriter::new(File::create(file)?), hash: Sha256::new() };
        let mut layer = Builder::new(out);
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder { mode } => {
                    let mut header = header(EntryType::Directory, *mode, 0);
                    layer.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::Link { target } => {
                    let mut header = header(EntryType::Symlink, 0o777, 0);
                    layer.append_link(&mut header, path, target)?;
                }
                Entry::Copy { source, mode } => {
                    let input =
                        File::open(source).with_context(|| format!("open {}", source.display()))?;
                    let size = input.metadata()?.len();
                    append(&mut layer, path, *mode, size, input)?;
                }
                Entry::Bytes { content, mode } => {
                    append(&mut layer, path, *mode, content.len() as u64, content.as_slice())?;
                }
            }
        }
        let mut out = layer.into_inner()?;
        out.flush()?;
        Ok(environment::hex(&out.hash.finalize()))
    }
}

fn is_named(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |start| name.starts_with(start))
}

fn append<W: Write>(
    out: &mut Builder<W>,
    path: &str,
    mode: u32,
    size: u64,
    content: impl Read,
) -> Result<()> {
    out.append_data(&mut header(EntryType::Regular, mode, size), path, content)?;
    Ok(())
}

/// A header in which only content and mode can differ: owner root, time 0.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Hashes what it writes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The loader and the libraries of a dynamically linked program; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let reason = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        if reason.contains("not a dynamic executable") || reason.contains("statically linked") {
            return Ok(Vec::new());
        }
        bail!("ldd {}: {}", program.display(), process::tail(&reason));
    }
    parse_ldd(&text).with_context(|| format!("libraries of {}", program.display()))
}

/// Reads lines such as `libc.so.6 => /lib/libc.so.6 (0x1)` and `/lib64/ld.so.2 (0x1)`.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let place = line.split_once("=>").map_or(line, |(_, place)| place).trim();
        if place.starts_with("not found") {
            bail!("library is missing: {}", line.trim());
        }
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    fn sample() -> Image {
        Image::new("localhost/sample:1")
            .entrypoint(&["/bin/app", "--flag"])
            .bytes("hello", "/etc/deep/file")
            .link("file", "/etc/deep/link")
            .shared_folder("/tmp")
    }

    #[test]
    fn the_same_image_is_the_same_file() {
        let scratch = Scratch::new("image").unwrap();
        let [first, second] = ["a.tar", "b.tar"].map(|name| scratch.path().join(name));
        sample().write(&first).unwrap();
        sample().write(&second).unwrap();
        assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2, "no partial file stays");
    }

    #[test]
    fn the_manifest_names_layer_and_configuration_by_their_hashes() {
        let scratch = Scratch::new("image").unwrap();
        let archive = scratch.path().join("image.tar");
        sample().write(&archive).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/sample:1");
        let config = manifest[0]["Config"].as_str().unwrap();
        let layer = manifest[0]["Layers"][0].as_str().unwrap();
        for (name, suffix) in [(config, ".json"), (layer, ".tar")] {
            let hash = environment::hex(&Sha256::digest(&files[name]));
            assert_eq!(name, format!("{hash}{suffix}"));
        }
        let config: serde_json::Value = serde_json::from_slice(&files[config]).unwrap();
        assert_eq!(config["config"]["User"], "65532");
        let paths: Vec<String> = tar::Archive::new(&files[layer][..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["etc/", "etc/deep/", "etc/deep/file", "etc/deep/link", "tmp/"]);
    }

    #[test]
    fn a_tree_is_copied_without_what_is_skipped() {
        let scratch = Scratch::new("image").unwrap();
        for file in ["tree/a.py", "tree/test/b.py", "tree/config-3/c.a", "tree/sub/d.py"] {
            scratch.write(file, "x").unwrap();
        }
        let skip = ["test", "config-*"];
        let image = Image::new("x:1").tree(&scratch.path().join("tree"), "/lib", &skip).unwrap();
        let paths: Vec<_> = image.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["lib", "lib/a.py", "lib/sub", "lib/sub/d.py"]);
    }

    #[test]
    fn reads_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007f4572e2d000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f4572d37000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f4572e2f000)";
        let want = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(text).unwrap(), want.map(PathBuf::from));
        let error = parse_ldd("\tlibodd.so.1 => not found").unwrap_err();
        assert!(error.to_string().contains("libodd.so.1"));
    }
}
