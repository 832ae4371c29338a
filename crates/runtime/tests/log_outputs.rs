//! A process with every logging flag of Dapr 1.19: each destination gets each line.

use clap::Parser as _;

#[derive(Debug, clap::Parser)]
struct Flags {
    #[command(flatten)]
    process: runtime::ProcessFlags,
}

#[test]
fn lines_go_to_every_destination_in_the_wanted_layout() {
    let folder = std::env::temp_dir().join(format!("trilby-log-outputs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [first, second] = ["a.log", "b.log"].map(|name| folder.join(name));
    let flags = Flags::parse_from([
        "probe",
        "--log-file",
        &first.to_string_lossy(),
        &format!("--log-outputs=stderr,{}", second.display()),
        "--log-file-max-size=1",
        "--log-file-max-backups=2",
        "--log-file-max-age=7",
        "--log-file-compression",
        "--log-timestamp-format=at 2006",
        "--enable-metrics=false",
        "--healthz-port=0",
        "--healthz-listen-address=127.0.0.1",
    ]);
    let code = runtime::main("dapr.probe", &flags.process, async |scope| {
        tracing::info!(target: "dapr.probe", "wired");
        scope.token().cancel();
        Ok(())
    });
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
    for path in [first, second] {
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.contains("msg=\"wired\"")).unwrap();
        assert!(line.starts_with("time=\"at 20"), "{line}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
