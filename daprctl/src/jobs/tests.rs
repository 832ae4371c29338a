//! Outputs of `daprctl jobs`.

mod store;

use std::path::Path;

use prost_types::{Any, Timestamp};
use proto::cron;
use proto::scheduler::{
    JobTargetMetadata, KnownMetadata, TargetActorReminder, TargetJob, job_target_metadata,
};
use rstest::rstest;

use self::store::Store;
use super::*;

fn metadata(kind: Option<&str>) -> Any {
    let target = match kind {
        None => job_target_metadata::Type::Job(TargetJob {}),
        Some(kind) => job_target_metadata::Type::Actor(TargetActorReminder {
            id: "1".to_owned(),
            r#type: kind.to_owned(),
        }),
    };
    let known = KnownMetadata {
        app_id: "cart".to_owned(),
        namespace: "shop".to_owned(),
        target: Some(JobTargetMetadata { r#type: Some(target) }),
        concurrency_key: None,
    };
    Any { type_url: "metadata".to_owned(), value: known.encode_to_vec() }
}

fn job(key: &str, kind: Option<&str>, spec: cron::Spec) -> KeyValue {
    let spec = cron::Spec { metadata: Some(metadata(kind)), ..spec };
    let record = cron::Job {
        partition_id: 7,
        begin: Some(cron::job::Begin::DueTime(Timestamp { seconds: 1_800_000_000, nanos: 5 })),
        expiration: None,
        job: Some(spec),
    };
    pair(&format!("dapr/jobs/{key}"), &record.encode_to_vec())
}

fn pair(key: &str, value: &[u8]) -> KeyValue {
    let (key, value) = (key.to_owned().into(), value.to_vec().into());
    KeyValue { key, value, ..KeyValue::default() }
}

fn counter(key: &str, job_partition_id: u64) -> KeyValue {
    let counter = cron::Counter {
        job_partition_id,
        count: 3,
        last_trigger: Some(Timestamp { seconds: 1_800_000_060, nanos: 0 }),
        attempts: 1,
    };
    pair(&format!("dapr/counters/{key}"), &counter.encode_to_vec())
}

/// A job with a counter, one whose counter is of an earlier job, a workflow, a damaged record.
fn pairs() -> Vec<KeyValue> {
    let spec = cron::Spec {
        schedule: Some("@every 20s".to_owned()),
        repeats: Some(9),
        payload: Some(Any { type_url: "text".to_owned(), value: b"secret".to_vec() }),
        ..cron::Spec::default()
    };
    let once = cron::Spec { due_time: Some("1h".to_owned()), ..cron::Spec::default() };
    let workflow = "dapr.internal.shop.cart.workflow";
    vec![
        counter("app||shop||cart||tick", 7),
        counter("app||shop||cart||once", 6),
        job("app||shop||cart||tick", None, spec),
        job("app||shop||cart||once", None, once.clone()),
        job(&format!("actorreminder||shop||{workflow}||1||timer"), Some(workflow), once),
        pair("dapr/jobs/damaged\u{1b}", b"\xff"),
    ]
}

fn jobs() -> Vec<Job> {
    joined(pairs().iter().filter_map(entry).collect())
}

#[rstest]
#[case("table", flags::Output::Table)]
#[case("json", flags::Output::Json)]
#[case("yaml", flags::Output::Yaml)]
fn a_list_in_each_format(#[case] name: &str, #[case] format: flags::Output) {
    let text = output::print(&jobs(), format).unwrap();
    assert!(!text.contains("secret"), "a payload is not listed");
    assert!(!text.contains('\u{1b}'), "no control character reaches the terminal");
    insta::assert_snapshot!(name, text);
}

#[test]
fn an_export_says_what_it_has() {
    let text = output::exported(&pairs(), Path::new("jobs.export"));
    insta::assert_snapshot!("export", text);
}

#[rstest]
#[case("import", import::Summary::default())]
#[case("import_that_goes_on", import::Summary { earlier: 120, ..import::Summary::default() })]
#[case("import_over_jobs", import::Summary { present: 1, ..import::Summary::default() })]
fn an_import_says_what_it_did(#[case] name: &str, #[case] done: import::Summary) {
    let done = import::Summary { jobs: 200, counters: 1, content: "ab12".to_owned(), ..done };
    insta::assert_snapshot!(name, output::imported(&done, Path::new("jobs.export")));
}

#[rstest]
#[case::all(&[], "damaged once tick timer")]
#[case::app(&["--app", "cart"], "once tick timer")]
#[case::other_app(&["--app", "car"], "")]
#[case::name(&["--name", "TI"], "tick timer")]
#[case::actor_id(&["--name", "1"], "timer")]
#[case::all_at_once(&["--app", "cart", "--name", "i", "--kind", "job", "-n", "shop"], "tick")]
fn a_list_of_some_jobs(#[case] args: &[&str], #[case] want: &str) {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        list: ListFlags,
    }
    let args = std::iter::once(&"list").chain(args);
    let flags = <Command as clap::Parser>::parse_from(args).list;
    let names: Vec<_> =
        jobs().into_iter().filter(|job| is_wanted(job, &flags)).map(|job| job.name).collect();
    let names: Vec<_> = names.iter().map(|name| name.trim_end_matches('\u{1b}')).collect();
    assert_eq!(names.join(" "), want);
}

#[test]
fn a_payload_is_shown_on_request() {
    let spec = cron::Spec {
        payload: Some(Any { type_url: "text".to_owned(), value: b"secret".to_vec() }),
        ..cron::Spec::default()
    };
    let pair = job("app||shop||cart||tick", None, spec);
    let shown = Job::read("app||shop||cart||tick", &pair.value, true);
    let text = output::print(&[shown], flags::Output::Json).unwrap();
    assert!(text.contains("c2VjcmV0"), "{text}");
}

#[test]
fn an_empty_list_is_said() {
    assert_eq!(
        output::print(&[], flags::Output::Table).unwrap(),
        "The scheduler has no such jobs.\n"
    );
}

fn exported_to(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("jobs.export");
    let bytes = file::encode(flags::Format::Trilby, &pairs(), file::MAX_FILE_BYTES).unwrap();
    file::save(&path, &bytes).unwrap();
    path
}

#[tokio::test]
async fn deleted_jobs_are_named_although_one_is_missing() {
    let (store, folder) = (Store::default(), tempfile::tempdir().unwrap());
    let mut client = store.client().await;
    import::run(&mut client, &exported_to(&folder), false).await.unwrap();
    let keys = ["app/cart/tick", "app/cart/gone", "app/cart/once"].map(str::to_owned).to_vec();
    let flags = DeleteFlags { keys, namespace: "shop".to_owned() };
    let mut text = String::new();
    let error = deleted(&mut client, &flags, &mut text).await.unwrap_err();
    assert_eq!(error.to_string(), "no such job: app||shop||cart||gone");
    assert_eq!(text, "deleted app||shop||cart||tick\ndeleted app||shop||cart||once\n");
    assert!(store.keys().iter().all(|key| !key.contains("||cart||")), "{:?}", store.keys());
}

#[tokio::test]
async fn a_pair_that_was_stored_with_other_content_is_put_again() {
    let folder = tempfile::tempdir().unwrap();
    let export = exported_to(&folder);
    let damaged = "dapr/jobs/app||shop||cart||tick";
    let mut client = Store::that_damages(damaged).client().await;
    for _ in 0..2 {
        let error = import::run(&mut client, &export, true).await.unwrap_err().to_string();
        assert!(error.contains(damaged) && error.contains("--overwrite"), "{error}");
    }
    let error = import::run(&mut client, &export, false).await.unwrap_err().to_string();
    assert!(error.contains("is there with other content"), "{error}");
}

#[tokio::test]
async fn a_job_that_is_there_already_is_counted() {
    let (store, folder) = (Store::default(), tempfile::tempdir().unwrap());
    let (export, mut client) = (exported_to(&folder), store.client().await);
    let first = import::run(&mut client, &export, false).await.unwrap();
    assert_eq!((first.jobs, first.counters, first.present), (4, 2, 0));
    let again = import::run(&mut client, &export, false).await.unwrap();
    assert_eq!((again.present, again.earlier), (6, 0), "no journal is left");
}

#[rstest]
#[case("app||ns||a||j", "app||ns||a||j")]
#[case("app/cart/tick", "app||shop||cart||tick")]
#[case("actor/cat/tom/feed", "actorreminder||shop||cat||tom||feed")]
fn keys_of_people(#[case] text: &str, #[case] stored: &str) {
    assert_eq!(record::stored_key(text, "shop").as_deref(), Ok(stored));
}

#[rstest]
#[case("")]
#[case("app/cart")]
#[case("actor/cat/tom")]
#[case("workflow/a/b")]
#[case("app/cart/a/b")]
fn malformed_keys(#[case] text: &str) {
    assert!(record::stored_key(text, "shop").unwrap_err().contains("is no key"));
}

#[test]
fn a_key_may_be_as_long_as_the_schedulers() {
    assert!(record::stored_key(&"k".repeat(512), "shop").is_ok());
    assert!(record::stored_key(&"k".repeat(513), "shop").unwrap_err().contains("512"));
}
