//! Damaged files of the real backend: acknowledged data is present, or the store reports that it is
//! missing. fjall itself cuts a journal at the first entry that it cannot read.

use std::fs;
use std::path::PathBuf;

use super::*;

const JOBS: usize = 60;
/// Places of the journal that are changed, one after another.
const PLACES: usize = 40;

/// A store that was shut down after [`JOBS`] jobs.
async fn stopped() -> Fixture {
    let mut fixture = Fixture::new(Kind::Disk);
    let store = fixture.open();
    for number in 0..JOBS {
        store.commit(put(&format!("dapr/jobs/{number:03}"), "value")).await.unwrap();
    }
    fixture.close(store).await;
    fixture
}

impl Fixture {
    fn journal(&self) -> PathBuf {
        let files = fs::read_dir(self.dir.path().join("db")).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        paths.find(|path| path.extension().is_some_and(|end| end == "jnl")).unwrap()
    }

    /// The jobs that are left, or why the store is not opened.
    async fn jobs(&mut self) -> Result<usize, BackendError> {
        let store = self.try_open()?;
        let jobs = keys_of(&*store).len();
        self.close(store).await;
        Ok(jobs)
    }
}

#[tokio::test]
async fn no_changed_byte_of_the_journal_loses_a_job_silently() {
    let mut fixture = stopped().await;
    let journal = fixture.journal();
    let whole = fs::read(&journal).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let witness = fs::read(fixture.dir.path().join("SEQUENCE")).unwrap();
    let mut damaged = 0;
    for place in 0..PLACES {
        let mut changed = whole.clone();
        changed[place * used / PLACES] ^= 0x55;
        fs::write(&journal, changed).unwrap();
        fs::write(fixture.dir.path().join("SEQUENCE"), &witness).unwrap();
        match fixture.jobs().await {
            Ok(jobs) => assert_eq!(jobs, JOBS, "place {place} of {used} bytes"),
            Err(BackendError::Damaged(_) | BackendError::Failed(_)) => damaged += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(damaged > PLACES / 2, "{damaged} were noticed");
}

#[tokio::test]
async fn a_journal_that_is_cut_is_refused_again_and_again() {
    let mut fixture = stopped().await;
    let journal = fixture.journal();
    let whole = fs::read(&journal).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    fs::write(&journal, &whole[..used / 2]).unwrap();
    for _ in 0..2 {
        let refused = fixture.jobs().await.unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("was acknowledged, but the files end with batch"), "{text}");
    }
    fs::remove_file(fixture.dir.path().join("SEQUENCE")).unwrap();
    let left = fixture.jobs().await.unwrap();
    assert!(left > 0 && left < JOBS, "the operator accepts the loss: {left}");
}

#[tokio::test]
async fn files_that_are_gone_are_missed() {
    let mut fixture = stopped().await;
    fs::remove_dir_all(fixture.dir.path().join("db")).unwrap();
    assert!(matches!(fixture.jobs().await, Err(BackendError::Damaged(_))));
}

/// A batch that was being written when the power failed was not acknowledged.
#[tokio::test]
async fn a_torn_tail_is_dropped() {
    let mut fixture = stopped().await;
    let journal = fixture.journal();
    let whole = fs::read(&journal).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The beginning of a batch, once more.
    let torn = [&whole[..used], &whole[..20]].concat();
    fs::write(&journal, torn).unwrap();
    assert_eq!(fixture.jobs().await, Ok(JOBS));
}
