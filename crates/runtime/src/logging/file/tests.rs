use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;

/// A folder below that of the build, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("trilby-log-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn rotation(max_bytes: u64) -> Rotation {
    Rotation { max_bytes: Some(max_bytes), ..Rotation::default() }
}

#[test]
fn a_file_without_a_limit_grows() {
    let folder = Folder::new("grows");
    let mut file = LogFile::open(&folder.0.join("a.log"), Rotation::default()).unwrap();
    for second in 0..1000 {
        file.append(b"0123456789\n", time(second)).unwrap();
    }
    assert_eq!(folder.names(), ["a.log"]);
    assert_eq!(file.length, 11_000);
}

#[rstest::rstest]
#[case::fits(20, 1)]
#[case::one_byte_too_small(19, 2)]
fn a_line_that_would_exceed_the_size_goes_to_a_new_file(#[case] max: u64, #[case] files: usize) {
    let folder = Folder::new(&format!("size-{max}"));
    let mut file = LogFile::open(&folder.0.join("a.log"), rotation(max)).unwrap();
    file.append(b"123456789\n", time(0)).unwrap();
    file.append(b"123456789\n", time(1)).unwrap();
    assert_eq!(folder.names().len(), files, "{:?}", folder.names());
}

#[test]
fn a_restart_continues_the_file_at_its_length() {
    let folder = Folder::new("restart");
    let path = folder.0.join("a.log");
    LogFile::open(&path, rotation(20)).unwrap().append(b"123456789\n", time(0)).unwrap();
    let mut again = LogFile::open(&path, rotation(20)).unwrap();
    again.append(b"123456789\n", time(1)).unwrap();
    again.append(b"3\n", time(2)).unwrap();
    assert_eq!(folder.names(), ["a-2027-01-15T08-00-02.000.log", "a.log"]);
}

#[test]
fn a_line_longer_than_the_limit_is_written_alone() {
    let folder = Folder::new("long");
    let path = folder.0.join("a.log");
    let mut file = LogFile::open(&path, rotation(4)).unwrap();
    file.append(b"0123456789\n", time(0)).unwrap();
    assert_eq!(folder.names(), ["a.log"], "nothing is rotated before the first line");
    file.append(b"x\n", time(1)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x\n");
}

#[rstest::rstest]
#[case::by_number(Rotation { max_backups: Some(2), ..rotation(1) }, 2)]
#[case::none(Rotation { max_backups: Some(0), ..rotation(1) }, 0)]
#[case::by_age(Rotation { max_age: Some(Duration::from_secs(3)), ..rotation(1) }, 4)]
#[case::all(rotation(1), 9)]
fn old_files_are_removed(#[case] rotation: Rotation, #[case] kept: usize) {
    let folder = Folder::new(&format!("old-{kept}"));
    fs::write(folder.0.join("a-other.log"), "").unwrap();
    let mut file = LogFile::open(&folder.0.join("a.log"), rotation).unwrap();
    for second in 0..10 {
        file.append(format!("{second}\n").as_bytes(), time(second)).unwrap();
    }
    let names = folder.names();
    assert!(names.contains(&"a-other.log".to_owned()), "files of others stay: {names:?}");
    assert_eq!(names.len(), kept + 2, "{names:?}");
    assert!(kept == 0 || names.iter().any(|name| name.contains("08-00-09")), "{names:?}");
}

#[test]
fn rotations_of_one_millisecond_have_names_of_their_own() {
    let folder = Folder::new("same-time");
    let mut file = LogFile::open(&folder.0.join("log"), rotation(1)).unwrap();
    for _ in 0..4 {
        file.append(b"x\n", time(0)).unwrap();
    }
    let times = ["000", "001", "002"].map(|ms| format!("log-2027-01-15T08-00-00.{ms}"));
    assert_eq!(folder.names(), [&["log".to_owned()], &times[..]].concat());
}

#[test]
fn rotated_files_are_compressed() {
    let folder = Folder::new("gzip");
    let mut file =
        LogFile::open(&folder.0.join("a.log"), Rotation { compress: true, ..rotation(1) }).unwrap();
    file.append(b"first\n", time(0)).unwrap();
    file.append(b"second\n", time(1)).unwrap();
    file.finish_compression();
    assert_eq!(folder.names(), ["a-2027-01-15T08-00-01.000.log.gz", "a.log"]);
    let mut text = String::new();
    let gzip = File::open(folder.0.join(&folder.names()[0])).unwrap();
    GzDecoder::new(gzip).read_to_string(&mut text).unwrap();
    assert_eq!(text, "first\n");
}

#[test]
fn a_rotation_that_fails_leaves_the_file_in_use() {
    let folder = Folder::new("gone");
    let path = folder.0.join("a.log");
    let mut file = LogFile::open(&path, rotation(1)).unwrap();
    file.append(b"1\n", time(0)).unwrap();
    fs::remove_file(&path).unwrap(); // the rename of the rotation has nothing to rename
    file.append(b"2\n", time(1)).unwrap();
    assert_eq!(file.length, 4);
}

#[test]
fn a_full_device_is_an_error_of_the_line() {
    let mut file = LogFile::open(Path::new("/dev/full"), Rotation::default()).unwrap();
    let error = file.append(b"x\n", time(0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.length, 0);
}

/// A file system of a few kilobytes.
struct SmallDisk(Folder);

impl SmallDisk {
    fn mount(name: &str, kilobytes: u32) -> Self {
        let folder = Folder::new(name);
        let options = format!("size={kilobytes}k");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder.0);
        assert!(mount.status().unwrap().success(), "mount a tmpfs at {}", folder.0.display());
        Self(folder)
    }

    /// Fills the remaining space.
    fn fill(&self) -> PathBuf {
        let path = self.0.0.join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
        path
    }

    /// The lines of all log files, compressed ones included.
    fn lines(&self) -> Vec<String> {
        let mut text = String::new();
        for name in self.0.names().iter().filter(|name| name.starts_with('a')) {
            let mut file = File::open(self.0.0.join(name)).unwrap();
            if name.ends_with(COMPRESSED) {
                GzDecoder::new(file).read_to_string(&mut text).unwrap();
            } else {
                file.read_to_string(&mut text).unwrap();
            }
        }
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line at the end");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0.0).status();
    }
}

#[rstest::rstest]
#[case::plain(false)]
#[case::compressed(true)]
#[ignore = "mounts a tmpfs, which needs root: cargo test -- --include-ignored"]
fn a_full_disk_costs_lines_and_tears_none(#[case] compress: bool) {
    let disk = SmallDisk::mount(&format!("full-{compress}"), 64);
    let limits = Rotation { max_backups: Some(2), compress, ..rotation(8 * 1024) };
    let mut file = LogFile::open(&disk.0.0.join("a.log"), limits).unwrap();
    // Odd lengths: writes end within pages.
    let line = |number: i64| format!("{number:0>997}\n");
    let mut append = |number| file.append(line(number).as_bytes(), time(number)).is_ok();
    assert!((0..100).all(&mut append), "rotation keeps the disk from filling");

    let filler = disk.fill();
    let written: Vec<i64> = (100..150).filter(|number| append(*number)).collect();
    assert!(written.len() < 50, "the disk is full");
    fs::remove_file(filler).unwrap();
    assert!((150..160).all(&mut append), "writes again once there is room");

    file.finish_compression();
    let lines = disk.lines();
    let whole = |text: &String| text.len() == 997 && text.parse::<f64>().is_ok();
    assert!(lines.iter().all(whole), "torn lines");
    assert!(lines.contains(&line(159).trim_end().to_owned()));
    assert!(disk.0.names().len() <= 3, "{:?}", disk.0.names());
}
