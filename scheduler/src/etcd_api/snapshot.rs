//! The whole store as one file, in the frame that `etcdctl snapshot save` checks. `daprctl jobs
//! import` reads it.

use bytes::Bytes;
use proto::job_file::Writer;

use super::answer;
use crate::store::{Entry, Scan, Snapshot, StoreError};

/// Pairs that are read together.
const PAGE: usize = 1_000;
/// A piece is sent when it has this many bytes.
const PIECE: usize = 64 << 10;

/// Sends the file in pieces, each with the number of remaining bytes, until `send` returns false.
/// Reads everything twice: the size comes first.
pub(super) fn write(
    view: &dyn Snapshot,
    mut send: impl FnMut(u64, Bytes) -> bool,
) -> Result<(), StoreError> {
    let (mut sizes, _) = Writer::start();
    each(view, |entry| {
        sizes.pair(&answer::key_value(entry));
        true
    })?;
    let mut remaining = sizes.size() as u64;
    let mut piece = |bytes: Vec<u8>| {
        remaining = remaining.saturating_sub(bytes.len() as u64);
        send(remaining, bytes.into())
    };
    let (mut writer, mut pending) = Writer::start();
    let mut open = true;
    each(view, |entry| {
        pending.extend(writer.pair(&answer::key_value(entry)));
        if pending.len() >= PIECE {
            open = piece(std::mem::take(&mut pending));
        }
        open
    })?;
    if open {
        let (zeros, hash) = writer.finish();
        pending.extend(zeros);
        let _ = piece(pending) && piece(hash);
    }
    Ok(())
}

/// FNV-1a of all pairs with their revisions.
pub(super) fn hash(view: &dyn Snapshot) -> Result<u32, StoreError> {
    let mut hash = 0x811c_9dc5_u32;
    each(view, |Entry { key, record }| {
        let revision = record.mod_revision.to_be_bytes();
        for byte in key.iter().chain(&revision).chain(&record.value) {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
        true
    })?;
    Ok(hash)
}

/// Passes every pair, in order, until `found` returns false.
fn each(view: &dyn Snapshot, mut found: impl FnMut(Entry) -> bool) -> Result<(), StoreError> {
    let mut scan = Scan { prefix: Bytes::new(), after: None, limit: PAGE };
    loop {
        let page = view.scan(&scan)?;
        let Some(last) = page.last() else { return Ok(()) };
        scan.after = Some(last.key.clone());
        for entry in page {
            if !found(entry) {
                return Ok(());
            }
        }
    }
}
