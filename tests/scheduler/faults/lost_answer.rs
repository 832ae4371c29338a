//! A put of a job whose request or answer is lost on the way between scheduler and etcd.

use anyhow::{Result, ensure};
use blackbox::{soon, until};
use rstest::rstest;

use crate::processes::etcd_server::EtcdServer;
use crate::processes::member::{Crowd, Kind, Member, names, once};
use crate::processes::proxy::{Lost, Proxy};

const KEY: &str = "dapr/jobs/app||default||app||";

struct Fixture {
    etcd: EtcdServer,
    proxy: Proxy,
    member: Member,
    crowd: Crowd,
}

impl Fixture {
    fn start() -> Result<Self> {
        let etcd = EtcdServer::start()?;
        let proxy = Proxy::start(&etcd)?;
        let member = Member::start_with(Kind::Ours, 0, &proxy.endpoint(), &[])?;
        let crowd = Crowd::start(&[member.port])?;
        // The watch is open, and the member has all jobs.
        crowd.schedule(member.port, "before", once("0s"))?;
        crowd.wait_for(&["before".to_owned()], 1)?;
        Ok(Self { etcd, proxy, member, crowd })
    }

    /// Schedules a job that is due at once, while `meanwhile` runs before the scheduler knows that
    /// it has no answer.
    fn schedule(
        &self,
        lost: Lost,
        overwrite: bool,
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.proxy.lose(lost, &format!("{KEY}job"));
        std::thread::scope(|scope| {
            let call = scope
                .spawn(|| self.crowd.schedule_if(self.member.port, "job", once("0s"), overwrite));
            let outcome =
                until(soon(), "the transaction", || Ok(self.proxy.has_lost().then_some(())))
                    .and_then(|()| meanwhile());
            self.proxy.fail();
            call.join().unwrap()?;
            outcome
        })
    }

    fn job(&self) -> Result<Vec<String>> {
        self.etcd.keys(&format!("{KEY}job"))
    }

    /// Waits until the job was delivered and deleted.
    fn wait_for_end(&self) -> Result<()> {
        self.crowd.wait_for(&["job".to_owned()], 1)?;
        until(soon(), "a finished job to be deleted", || Ok(self.job()?.is_empty().then_some(())))
    }

    /// Each job was delivered once, when all deliveries up to now have arrived.
    fn ensure_once(&self) -> Result<()> {
        let after = names("after", 3);
        for name in &after {
            self.crowd.schedule(self.member.port, name, once("0s"))?;
        }
        self.crowd.wait_for(&after, 1)?;
        self.crowd.ensure_once(&["job".to_owned()])
    }
}

#[rstest]
#[case::replaces(true)]
#[case::creates(false)]
fn a_job_that_fired_before_its_put_was_answered_fires_once(#[case] overwrite: bool) -> Result<()> {
    let fixture = Fixture::start()?;
    fixture.schedule(Lost::Answer, overwrite, || fixture.wait_for_end())?;
    ensure!(fixture.job()?.is_empty(), "the job is stored again");
    fixture.ensure_once()
}

#[test]
fn a_job_that_was_replaced_before_its_put_was_answered_stays_replaced() -> Result<()> {
    let fixture = Fixture::start()?;
    fixture.schedule(Lost::Answer, true, || {
        fixture.wait_for_end()?;
        fixture.crowd.schedule(fixture.member.port, "job", once("24h"))
    })?;
    ensure!(fixture.job()?.len() == 1, "the later job is lost");
    fixture.ensure_once()?;
    ensure!(fixture.job()?.len() == 1, "the later job is lost");
    Ok(())
}

#[rstest]
#[case::replaces(true)]
#[case::creates(false)]
fn a_job_whose_put_did_not_arrive_is_sent_again(#[case] overwrite: bool) -> Result<()> {
    let fixture = Fixture::start()?;
    fixture.schedule(Lost::Request, overwrite, || Ok(()))?;
    fixture.wait_for_end()?;
    fixture.ensure_once()
}

/// The key has changed since the first attempt.
#[test]
fn a_put_that_did_not_arrive_replaces_the_job_of_that_name() -> Result<()> {
    let fixture = Fixture::start()?;
    fixture.schedule(Lost::Request, true, || {
        fixture.crowd.schedule(fixture.member.port, "job", once("24h"))
    })?;
    fixture.wait_for_end()?;
    fixture.ensure_once()
}

/// Without an answer about its history nobody knows whether it has fired. It is not lost.
#[test]
fn a_job_whose_history_is_not_shown_is_stored_again_and_the_log_says_so() -> Result<()> {
    let mut fixture = Fixture::start()?;
    fixture.proxy.silence_watches();
    fixture.schedule(Lost::Answer, true, || fixture.wait_for_end())?;
    let said = "it is stored again, and may fire twice";
    fixture.member.process.wait_for_log(said, soon())?;
    fixture.crowd.wait_for(&["job".to_owned()], 2)
}
