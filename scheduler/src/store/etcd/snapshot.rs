//! The store at one revision: that of the first page that is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::etcd::etcdserverpb::RangeRequest;
use tokio::runtime::Handle;

use super::client::Client;
use super::requests::{self, number};
use crate::store::query::{Query, Selected, Selection};
use crate::store::range::KeyRange;
use crate::store::{Entry, Revision, Scan, Snapshot, StoreError};

/// Target size of a page: the number of keys follows the size of the last page.
const PAGE_BYTES: usize = 8 << 20;
/// Keys in one page of a whole read.
const PAGE: usize = 1_000;

/// Reads pages at the revision of the first one.
pub(super) struct Pages {
    /// 0 before the first page.
    pub(super) revision: Revision,
    limit: usize,
}

pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) more: bool,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self { revision: 0, limit: PAGE }
    }

    /// The page that follows this key.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        range: &KeyRange,
        after: Option<Bytes>,
    ) -> Result<Page, StoreError> {
        let (first, range_end) = requests::bounds(range.clone());
        // The next key after one is that one with a zero byte.
        let key = after.map_or(first, |after| [after.as_ref(), b"\0"].concat().into());
        let request = RangeRequest {
            key,
            range_end,
            limit: i64::try_from(self.limit).unwrap_or(i64::MAX),
            revision: number(self.revision),
            ..RangeRequest::default()
        };
        let answer = client.page(request).await?;
        if self.revision == 0 {
            self.revision = requests::revision_of(answer.header.as_ref());
        }
        let bytes = answer.kvs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
        self.limit = limit_after(answer.kvs.len(), bytes);
        let entries = answer.kvs.into_iter().map(super::entry).collect();
        Ok(Page { entries, more: answer.more })
    }
}

/// Keys of the page after one of this many keys and bytes.
fn limit_after(keys: usize, bytes: usize) -> usize {
    let one = bytes.div_ceil(keys.max(1)).max(1);
    (PAGE_BYTES / one).clamp(1, PAGE)
}

/// A view whose revision is that of its first read. Reads block on the network; they are called
/// from threads that may block.
pub(super) struct Latest {
    client: Arc<Client>,
    handle: Handle,
    pages: Mutex<Pages>,
}

impl Latest {
    /// # Panics
    /// Outside of a runtime.
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, handle: Handle::current(), pages: Mutex::new(Pages::new()) }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, range: &KeyRange, after: Option<Bytes>) -> Result<Page, StoreError> {
        let mut pages = self.pages();
        self.handle.block_on(pages.read(&self.client, range, after))
    }
}

impl Snapshot for Latest {
    fn scan(&self, scan: &Scan) -> Result<Vec<Entry>, StoreError> {
        let range = KeyRange::prefix(scan.prefix.clone());
        Ok(self.read(&range, scan.after.clone())?.entries)
    }

    fn select(&self, query: &Query) -> Result<Selected, StoreError> {
        let mut selection = Selection::new(query);
        let mut after = None;
        loop {
            let page = self.read(&query.range, after.take())?;
            after = page.entries.last().map(|entry| entry.key.clone());
            page.entries.into_iter().for_each(|entry| selection.push(entry));
            if !page.more {
                return Ok(selection.finish());
            }
        }
    }

    fn revision(&self) -> Revision {
        self.pages().revision
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::empty(0, 0, PAGE)]
    #[case::small(PAGE, PAGE * (PAGE_BYTES / PAGE), PAGE)]
    #[case::a_byte_more(1, PAGE_BYTES / PAGE + 1, PAGE - 1)]
    #[case::one_fills_it(1, PAGE_BYTES, 1)]
    #[case::one_exceeds_it(1, PAGE_BYTES + 1, 1)]
    fn a_page_has_so_many_keys_and_about_so_many_bytes(
        #[case] keys: usize,
        #[case] bytes: usize,
        #[case] want: usize,
    ) {
        assert_eq!(limit_after(keys, bytes), want);
    }
}
