//! Counts the keys of a bucket in a file of bbolt, the engine of etcd, without writing to it.
//! Source: bbolt, file format version 2.
//!
//! The file is a tree of pages. A page has a header and elements: branches point to pages, leaves
//! hold keys and values. A bucket is a value that names the root page of its own tree, or holds that
//! page itself when it is small.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Bytes of the header of a page, and of each element.
const HEADER: usize = 16;
const ELEMENT: usize = 16;
/// Bytes of a meta page before its checksum.
const META: usize = 56;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
/// The flag of a leaf element whose value is a bucket.
const BUCKET: u32 = 1;
/// The smallest and largest page size of bbolt.
const PAGE_BYTES: [u32; 2] = [1 << 10, 64 << 10];
/// Largest page with its overflow: the lists of buckets and of members have a few hundred bytes.
const MAX_PAGE_BYTES: u64 = 16 << 20;
/// Limit of read pages: a damaged file may have a cycle.
const MAX_PAGES: usize = 4_096;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BoltError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no file of etcd, or is damaged")]
    Damaged,
}

/// The number of keys in a bucket; `None` when there is no such bucket.
pub(super) fn count(file: &File, bucket: &[u8]) -> Result<Option<usize>, BoltError> {
    let mut reader = Reader { file, page_bytes: 0, pages: 0 };
    let root = reader.root()?;
    let mut found = None;
    reader.walk(root, &mut |leaf| {
        if leaf.flags & BUCKET != 0 && leaf.key == bucket {
            found = Some(leaf.value.to_vec());
        }
    })?;
    let Some(bucket) = found else { return Ok(None) };
    let mut keys = 0;
    let mut count = |_: Leaf<'_>| keys += 1;
    match u64_at(&bucket, 0)? {
        0 => {
            let inline = Page(bucket.get(HEADER..).ok_or(BoltError::Damaged)?);
            (0..inline.elements()?).try_for_each(|at| inline.leaf(at).map(&mut count))?;
        }
        root => reader.walk(root, &mut count)?,
    }
    Ok(Some(keys))
}

struct Reader<'a> {
    file: &'a File,
    page_bytes: u32,
    pages: usize,
}

impl Reader<'_> {
    /// The root page, from the newest valid one of the two meta pages. The position of the second
    /// depends on the page size, which both contain.
    fn root(&mut self) -> Result<u64, BoltError> {
        let [smallest, largest] = PAGE_BYTES;
        let sizes = std::iter::successors(Some(smallest), |size| Some(size * 2));
        let places = sizes.take_while(|size| *size <= largest).map(u64::from);
        let mut metas = Vec::new();
        for at in std::iter::once(0).chain(places) {
            let mut meta = [0; HEADER + META + 8];
            if self.file.read_exact_at(&mut meta, at).is_ok() {
                metas.extend(Meta::parse(meta.get(HEADER..).unwrap_or_default()));
            }
        }
        let newest = metas.into_iter().max_by_key(|meta| meta.transaction);
        let newest = newest.ok_or(BoltError::Damaged)?;
        self.page_bytes = newest.page_bytes;
        Ok(newest.root)
    }

    fn page(&mut self, number: u64) -> Result<Vec<u8>, BoltError> {
        self.pages += 1;
        if self.pages > MAX_PAGES {
            return Err(BoltError::Damaged);
        }
        let size = u64::from(self.page_bytes);
        let start = number.checked_mul(size).ok_or(BoltError::Damaged)?;
        let mut header = [0; HEADER];
        self.file.read_exact_at(&mut header, start)?;
        let bytes = (u64::from(u32_at(&header, 12)?) + 1) * size;
        if bytes > MAX_PAGE_BYTES {
            return Err(BoltError::Damaged);
        }
        let mut page = vec![0; usize::try_from(bytes).map_err(|_| BoltError::Damaged)?];
        self.file.read_exact_at(&mut page, start)?;
        Ok(page)
    }

    /// Visits the leaves of a tree.
    fn walk(&mut self, root: u64, visit: &mut impl FnMut(Leaf<'_>)) -> Result<(), BoltError> {
        let mut pending = vec![root];
        while let Some(number) = pending.pop() {
            let bytes = self.page(number)?;
            let page = Page(&bytes);
            for at in 0..page.elements()? {
                match page.flags()? {
                    BRANCH => pending.push(page.child(at)?),
                    LEAF => visit(page.leaf(at)?),
                    _ => return Err(BoltError::Damaged),
                }
            }
        }
        Ok(())
    }
}

struct Meta {
    page_bytes: u32,
    root: u64,
    transaction: u64,
}

impl Meta {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at| u32_at(bytes, at).ok();
        let long = |at| u64_at(bytes, at).ok();
        let page_bytes = word(8)?;
        let [smallest, largest] = PAGE_BYTES;
        let valid = word(0)? == MAGIC
            && word(4)? == VERSION
            && (smallest..=largest).contains(&page_bytes)
            && long(META)? == checksum(bytes.get(..META)?);
        valid.then_some(Self { page_bytes, root: long(16)?, transaction: long(48)? })
    }
}

/// FNV-1a of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

struct Leaf<'a> {
    flags: u32,
    key: &'a [u8],
    value: &'a [u8],
}

/// A page with its header.
struct Page<'a>(&'a [u8]);

impl Page<'_> {
    fn flags(&self) -> Result<u16, BoltError> {
        Ok(u16::from_le_bytes(array(self.0, 8)?))
    }

    fn elements(&self) -> Result<usize, BoltError> {
        Ok(u16::from_le_bytes(array(self.0, 10)?).into())
    }

    /// The page that an element of a branch points to.
    fn child(&self, at: usize) -> Result<u64, BoltError> {
        u64_at(self.0, HEADER + at * ELEMENT + 8)
    }

    fn leaf(&self, at: usize) -> Result<Leaf<'_>, BoltError> {
        let element = HEADER + at * ELEMENT;
        let word = |offset| {
            let word = u32_at(self.0, element + offset)?;
            usize::try_from(word).map_err(|_| BoltError::Damaged)
        };
        let key = element + word(4)?;
        let value = key + word(8)?;
        let end = value + word(12)?;
        let bytes = |from: usize, to: usize| self.0.get(from..to).ok_or(BoltError::Damaged);
        let flags = u32_at(self.0, element)?;
        Ok(Leaf { flags, key: bytes(key, value)?, value: bytes(value, end)? })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, BoltError> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, BoltError> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], BoltError> {
    let array = bytes.get(at..at + N).and_then(|slice| slice.try_into().ok());
    array.ok_or(BoltError::Damaged)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const PAGE: usize = 4_096;

    fn page(flags: u16, elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
        let count = u16::try_from(elements.len()).unwrap();
        let mut page = [&[0; 8][..], &flags.to_le_bytes(), &count.to_le_bytes(), &[0; 4]].concat();
        let mut data = Vec::new();
        for (at, (flags, key, value)) in elements.iter().enumerate() {
            let position = (elements.len() - at) * ELEMENT + data.len();
            for word in [*flags as usize, position, key.len(), value.len()] {
                page.extend(u32::try_from(word).unwrap().to_le_bytes());
            }
            data.extend([*key, *value].concat());
        }
        page.extend(data);
        page
    }

    fn meta(root: u64, transaction: u64) -> Vec<u8> {
        let mut meta =
            [MAGIC, VERSION, u32::try_from(PAGE).unwrap(), 0].map(u32::to_le_bytes).concat();
        for word in [root, 0, 0, 9, transaction] {
            meta.extend(word.to_le_bytes());
        }
        let sum = checksum(&meta);
        [vec![0; HEADER], meta, sum.to_le_bytes().to_vec()].concat()
    }

    fn file(pages: &[Vec<u8>]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        for page in pages {
            let mut page = page.clone();
            page.resize(page.len().next_multiple_of(PAGE), 0);
            file.write_all(&page).unwrap();
        }
        file
    }

    fn bucket(root: u64, inline: &[u8]) -> Vec<u8> {
        [&root.to_le_bytes(), &[0; 8][..], inline].concat()
    }

    #[test]
    fn counts_the_keys_of_small_and_large_buckets() {
        let inline = page(LEAF, &[(0, b"a", b"1"), (0, b"b", b"2")]);
        let large = page(LEAF, &[(0, b"x", b"1"), (0, b"y", b"2"), (0, b"z", b"3")]);
        let root =
            page(LEAF, &[(1, b"members", &bucket(0, &inline)), (1, b"key", &bucket(4, &[]))]);
        let mut branch = page(BRANCH, &[(0, b"", b"")]);
        branch[HEADER + 8..HEADER + 16].copy_from_slice(&3_u64.to_le_bytes());
        // The older meta page names a root that is not read.
        let file = file(&[meta(9, 6), meta(2, 7), branch, root, large]);
        assert_eq!(count(&file, b"members").unwrap(), Some(2));
        assert_eq!(count(&file, b"key").unwrap(), Some(3));
        assert_eq!(count(&file, b"lease").unwrap(), None);
    }

    #[test]
    fn the_largest_page_is_read_and_a_larger_one_is_not() {
        let pages = u32::try_from(MAX_PAGE_BYTES).unwrap() / u32::try_from(PAGE).unwrap();
        for (overflow, fits) in [(pages - 1, true), (pages, false)] {
            let mut root = page(LEAF, &[(1, b"members", &bucket(0, &page(LEAF, &[])))]);
            root[12..16].copy_from_slice(&overflow.to_le_bytes());
            let file = file(&[meta(2, 1), meta(2, 2), root]);
            file.set_len(2 * MAX_PAGE_BYTES).unwrap();
            let members = count(&file, b"members");
            assert_eq!(members.is_ok(), fits, "{members:?}");
            assert!(fits || matches!(members, Err(BoltError::Damaged)), "{members:?}");
        }
    }

    #[test]
    fn a_file_of_another_kind_and_a_circle_are_errors() {
        let other = file(&[vec![7; 3 * PAGE]]);
        assert!(matches!(count(&other, b"key"), Err(BoltError::Damaged)));
        let mut circle = page(BRANCH, &[(0, b"", b"")]);
        circle[HEADER + 8..HEADER + 16].copy_from_slice(&2_u64.to_le_bytes());
        let file = file(&[meta(2, 1), meta(2, 2), circle]);
        assert!(matches!(count(&file, b"key"), Err(BoltError::Damaged)));
    }
}
