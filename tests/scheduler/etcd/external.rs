//! The connection to an external etcd: users, TLS, and an etcd that is full.

use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::{Scratch, environment, http, soon, until};
use identity::KeyKind;
use proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcd::etcdserverpb::{AlarmRequest, AlarmType, StatusRequest};
use testkit::ca::{Ca, SvidOptions, TestSvid};
use tonic::transport::Endpoint;

use crate::processes::etcd_server::EtcdServer;
use crate::processes::member::{Crowd, Kind, Member, every, names, once};
use crate::processes::wait_for_health;

fn fires(member: &Member) -> Result<()> {
    let crowd = Crowd::start(&[member.port])?;
    let jobs = names("job", 5);
    for name in &jobs {
        crowd.schedule(member.port, name, once("0s"))?;
    }
    crowd.wait_for(&jobs, 1)
}

/// A member that has a user's name and password.
fn with_password(etcd: &EtcdServer) -> Result<Member> {
    let flags = ["username=root", "password=sesame"].map(|flag| format!("--etcd-client-{flag}"));
    Member::start_with(Kind::Ours, 0, &etcd.endpoint(), &flags)
}

/// From now on etcd asks for that name and password.
fn enable_users(etcd: &EtcdServer) -> Result<()> {
    etcd.ctl(&["user", "add", "root:sesame"])?;
    etcd.ctl(&["user", "grant-role", "root", "root"])?;
    etcd.ctl(&["auth", "enable"]).map(drop)
}

#[test]
fn a_user_and_its_password_are_used_where_etcd_asks_and_do_no_harm_where_not() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let mut member = with_password(&etcd)?;
    fires(&member)?;
    enable_users(&etcd)?;
    fires(&member)?;
    member.stop()?;
    member.restart(Kind::Ours)?;
    fires(&member)?;
    ensure!(!member.process.log().contains("sesame"), "the password is in the log");
    Ok(())
}

#[test]
fn endpoints_that_are_away_are_passed_over() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let away = || environment::free_port();
    let endpoints =
        format!("127.0.0.1:{},http://{},127.0.0.1:{}", away()?, etcd.endpoint(), away()?);
    fires(&Member::start_with(Kind::Ours, 0, &endpoints, &[])?)
}

#[test]
fn each_of_three_endpoints_may_be_away() -> Result<()> {
    let mut etcds = EtcdServer::start_three()?;
    let [first, second, third] = [0, 1, 2].map(|number: usize| etcds[number].endpoint());
    let member =
        Member::start_with(Kind::Ours, 0, &format!("{first},http://{second},{third}"), &[])?;
    fires(&member)?;
    for etcd in &mut etcds {
        etcd.stop()?;
        fires(&member)?;
        etcd.restart()?;
    }
    Ok(())
}

/// Neither its streams nor its timers are lost meanwhile.
#[test]
fn jobs_fire_again_when_etcd_is_back_after_a_minute() -> Result<()> {
    const AWAY: Duration = Duration::from_mins(1);
    let mut etcd = EtcdServer::start()?;
    let member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    let (ticks, missed) = (names("tick", 3), names("missed", 3));
    for (tick, missed) in ticks.iter().zip(&missed) {
        crowd.schedule(member.port, tick, every("1s"))?;
        crowd.schedule(member.port, missed, once("30s"))?;
    }
    crowd.wait_for(&ticks, 1)?;
    etcd.stop()?;
    std::thread::sleep(AWAY);
    ensure!(http::get(member.health, "/healthz")?.status == 503);
    ensure!(http::get(member.health, "/livez")?.status == 200);
    etcd.restart()?;
    crowd.wait_for(&missed, 1)?;
    // Each second of the minute was one of its ticks.
    crowd.wait_for(&ticks, usize::try_from(AWAY.as_secs())?)?;
    crowd.ensure_once(&missed)?;
    wait_for_health(member.health, 200)?;
    let log = member.process.log();
    ensure!(log.matches("Sidecar connected").count() == 1, "the stream was kept: {log}");
    Ok(())
}

/// Tokens of etcd end with the process that gave them.
#[test]
fn a_token_that_etcd_has_forgotten_is_asked_for_again() -> Result<()> {
    let mut etcd = EtcdServer::start()?;
    enable_users(&etcd)?;
    let member = with_password(&etcd)?;
    fires(&member)?;
    etcd.stop()?;
    etcd.restart()?;
    fires(&member)
}

fn write(folder: &Scratch, name: &str, svid: &TestSvid) -> Result<[String; 2]> {
    let certificate = folder.write(&format!("{name}.crt"), svid.chain.to_pem())?;
    let key = folder.write(&format!("{name}.key"), svid.key.to_pem().as_str())?;
    Ok([certificate, key].map(|path| path.display().to_string()))
}

#[test]
fn an_etcd_with_tls_gets_a_client_certificate() -> Result<()> {
    let (ca, folder) = (Ca::new(), Scratch::new("tls")?);
    let options = SvidOptions {
        key_kind: KeyKind::EcdsaP256,
        dns_names: vec!["localhost".to_owned()],
        ..SvidOptions::default()
    };
    let [certificate, key] = write(&folder, "etcd", &ca.svid_with("ns", "etcd", &options))?;
    let own = SvidOptions { key_kind: KeyKind::EcdsaP256, ..SvidOptions::default() };
    let [own_certificate, own_key] = write(&folder, "own", &ca.svid_with("ns", "jobs", &own))?;
    let anchors = folder.write("ca.crt", &ca.pem().anchors)?.display().to_string();
    let etcd = EtcdServer::start_with(
        "https",
        &[
            format!("--cert-file={certificate}"),
            format!("--key-file={key}"),
            format!("--trusted-ca-file={anchors}"),
            "--client-cert-auth".to_owned(),
        ],
    )?;
    let flags = [
        format!("--etcd-client-ca-file={anchors}"),
        format!("--etcd-client-cert-file={own_certificate}"),
        format!("--etcd-client-key-file={own_key}"),
    ];
    let endpoint = format!("https://localhost:{}", etcd.port);
    let member = Member::start_with(Kind::Ours, 0, &endpoint, &flags)?;
    fires(&member)
}

/// As etcd itself does when its quota is used up.
pub(crate) fn raise_alarm(crowd: &Crowd, etcd: &EtcdServer) -> Result<()> {
    crowd.runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", etcd.endpoint()))?;
        let mut client = MaintenanceClient::new(endpoint.connect().await?);
        let status = client.status(StatusRequest {}).await?.into_inner();
        let member_id = status.header.unwrap_or_default().member_id;
        let (action, alarm) = (AlarmAction::Activate.into(), AlarmType::Nospace.into());
        client.alarm(AlarmRequest { action, member_id, alarm }).await?;
        Ok(())
    })
}

#[test]
fn a_full_etcd_refuses_jobs_and_is_not_ready_until_the_alarm_is_cleared() -> Result<()> {
    let etcd = EtcdServer::start()?;
    let member = Member::start(Kind::Ours, 0, &etcd)?;
    let crowd = Crowd::start(&[member.port])?;
    crowd.schedule(member.port, "before", once("3s"))?;
    let tick = names("tick", 1);
    crowd.schedule(member.port, &tick[0], every("500ms"))?;
    raise_alarm(&crowd, &etcd)?;
    wait_for_health(member.health, 503)?;
    let refused = crowd.schedule(member.port, "while", once("0s")).unwrap_err();
    ensure!(format!("{refused:#}").contains("database space exceeded"), "{refused:#}");
    crowd.wait_for(&["before".to_owned()], 1)?;
    until(soon(), "an end to be written", || {
        Ok((etcd.keys("dapr/jobs/")?.len() == 1).then_some(()))
    })?;
    // Its counter cannot be written.
    crowd.wait_for_more(&tick, 3)?;
    etcd.ctl(&["alarm", "disarm"])?;
    wait_for_health(member.health, 200)?;
    crowd.schedule(member.port, "after", once("0s"))?;
    crowd.wait_for(&["after".to_owned()], 1)
}
