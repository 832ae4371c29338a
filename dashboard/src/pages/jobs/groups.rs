//! Jobs of each application and actor type, as the schedulers count them on their health port. Names
//! and payloads of jobs are not read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::Time;
use crate::html::{Html, el, leaf, text};
use crate::model::Snapshot;
use crate::pages::parts::{Filter, Level, badge, hint, notice, table};
use crate::pages::{Site, words};
use crate::peers::answers::{JobCounts, JobGroup, json};
use crate::peers::{Answer, AskError};

/// Health port of the scheduler, which serves the counts (chart).
pub(super) const HEALTH_PORT: u16 = 8080;
/// Begin of the actor types of workflows, `dapr.internal.NAMESPACE.APP-ID.KIND` (Dapr 1.18).
const INTERNAL: &str = "dapr.internal.";

/// The jobs of an application, or the reminders of an actor type.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    namespace: String,
    /// What they are: `job`, `workflow`, `activity`, or `reminder` of another actor.
    kind: &'static str,
    /// App id; for a reminder of another actor its type.
    name: String,
    jobs: u64,
    staged: u64,
    waiting: u64,
    in_flight: u64,
    /// When the next one is due; absent if none waits for its time.
    next: Option<Time>,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(super) struct Groups {
    filter: Filter,
    rows: Vec<Row>,
    /// Jobs of further applications, in all namespaces.
    omitted: u64,
    /// Why there are no counts.
    error: Option<String>,
    #[serde(skip)]
    namespaces: BTreeSet<String>,
}

/// Builds the view model. Each replica counts its own jobs, so that counts are added.
pub(super) fn view(
    snapshot: &Snapshot,
    answers: &[Answer],
    filter: Filter,
    now: Timestamp,
) -> Groups {
    let mut sums = BTreeMap::<_, JobGroup>::new();
    let (mut omitted, mut is_answered) = (0, false);
    for counts in answers.iter().flatten().filter_map(|body| json::<JobCounts>(body)) {
        is_answered = true;
        omitted += counts.omitted;
        for group in counts.groups {
            let key = (group.namespace.clone(), group.kind.clone(), group.name.clone());
            let sum = sums.entry(key).or_default();
            sum.jobs += group.jobs;
            sum.staged += group.staged;
            sum.waiting += group.waiting;
            sum.in_flight += group.in_flight;
            sum.next_due = [sum.next_due, group.next_due].into_iter().flatten().min();
        }
    }
    sums.retain(|(namespace, ..), _| snapshot.shows_namespace(namespace));
    let namespaces = sums.keys().map(|(namespace, ..)| namespace.clone()).collect();
    let rows = sums.into_iter().map(|((namespace, kind, name), sum)| {
        let (kind, name) = kind_and_name(&namespace, &kind, name);
        let next = sum.next_due.map(|at| Time::of(at, now));
        let JobGroup { jobs, staged, waiting, in_flight, .. } = sum;
        Row { namespace, kind, name, jobs, staged, waiting, in_flight, next }
    });
    let rows = rows.filter(|row| filter.admits(&row.namespace, &[row.kind, &row.name])).collect();
    let error = (!is_answered).then(|| why_not(answers));
    Groups { filter, rows, omitted, error, namespaces }
}

/// Reminders of workflows are named by the application that runs them.
fn kind_and_name(namespace: &str, kind: &str, name: String) -> (&'static str, String) {
    if kind == "job" {
        return ("job", name);
    }
    let own = name.strip_prefix(INTERNAL).and_then(|rest| rest.strip_prefix(namespace));
    let own = own.and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.rsplit_once('.'));
    match own {
        Some((app, "workflow")) => ("workflow", app.to_owned()),
        Some((app, "activity")) => ("activity", app.to_owned()),
        _ => ("reminder", name),
    }
}

fn why_not(answers: &[Answer]) -> String {
    let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    if errors.clone().any(AskError::is_not_found) {
        "The scheduler does not count jobs by application: set the chart value dapr_scheduler.metadataEnabled=true."
            .to_owned()
    } else if let Some(error) = errors.next() {
        format!("The scheduler cannot be asked: {error}")
    } else {
        "The scheduler gave no counts that can be read.".to_owned()
    }
}

/// The section.
pub(super) fn render(site: &Site<'_>, view: &Groups) -> Html {
    if let Some(error) = &view.error {
        return hint(error);
    }
    let whole = |value: u64| text(value.to_string());
    let rows = view.rows.iter().map(|row| {
        let (what, name) = match row.kind {
            "job" => ("Jobs", site.app(&row.namespace, &row.name)),
            "workflow" => ("Workflow reminders", site.app(&row.namespace, &row.name)),
            "activity" => ("Activity reminders", site.app(&row.namespace, &row.name)),
            _ => ("Actor reminders", text(&row.name)),
        };
        let staged = match row.staged {
            0 => whole(0),
            staged => badge(Level::Warning, &staged.to_string()),
        };
        vec![
            name,
            text(&row.namespace),
            text(what),
            whole(row.jobs),
            text(row.next.as_ref().map_or("–", |next| next.words.as_str())),
            staged,
            whole(row.waiting),
            whole(row.in_flight),
        ]
    });
    let headings = [
        "App id or actor type",
        "Namespace",
        "What",
        "Stored",
        "Next run",
        "Due, no sidecar",
        "Due, waiting",
        "Without an answer yet",
    ];
    let form = view.filter.form(view.namespaces.iter().map(String::as_str));
    let empty = "No jobs and no reminders. An application schedules them through its sidecar.";
    let table = table("Jobs by application and actor type", &headings, rows, empty);
    let omitted = usize::try_from(view.omitted).unwrap_or(usize::MAX);
    let more = (omitted > 0).then(|| notice(format!("{}.", words::not_shown(omitted, "job"))));
    let names = leaf("code", "daprctl jobs list --namespace NAMESPACE --app APP-ID --name TEXT");
    let names = [text("Names, next triggers and counts of single jobs: "), names];
    let names = el("p", &[("class", "remedy")], names);
    [Some(form), Some(table), more, Some(names)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::peers::answers::SCHEDULER_JOBS;

    const NOW: Timestamp = Timestamp::constant(1_700_000_000, 0);

    fn answer(groups: &Value, omitted: u64) -> Bytes {
        json!({"groups": groups, "omitted": omitted}).to_string().into()
    }

    fn page(answers: &[Answer], query: &str) -> (Groups, String) {
        let snapshot = Snapshot::default();
        let view = view(&snapshot, answers, Filter::parse(query), NOW);
        let page = render(&Site::new("", &snapshot), &view).into_document();
        (view, page)
    }

    #[test]
    fn counts_of_replicas_are_added_and_the_next_run_is_the_first() {
        let of = |jobs: u64, next: Option<&str>| {
            let group = json!({"namespace": "shop", "kind": "job", "name": "cart", "jobs": jobs,
                "staged": 1, "waiting": 2, "inFlight": 3, "nextDue": next});
            Ok(answer(&json!([group]), 1))
        };
        let answers =
            [of(4, Some("2023-11-14T23:13:20Z")), of(5, Some("2023-11-14T22:15:20Z")), of(6, None)];
        let (view, page) = page(&answers, "");
        let row = &view.rows[0];
        assert_eq!((row.jobs, row.staged, row.waiting, row.in_flight), (15, 3, 6, 9));
        assert_eq!(row.next.as_ref().unwrap().words, "in 2 minutes");
        assert!(
            page.contains("in 2 minutes") && page.contains("3 more jobs are not shown"),
            "{page}"
        );
    }

    #[rstest]
    #[case("job", "cart", ("job", "cart"))]
    #[case("actor", "Cat", ("reminder", "Cat"))]
    #[case("actor", "dapr.internal.shop.my.cart.workflow", ("workflow", "my.cart"))]
    #[case("actor", "dapr.internal.shop.cart.activity", ("activity", "cart"))]
    #[case("actor", "dapr.internal.other.cart.workflow", ("reminder", "dapr.internal.other.cart.workflow"))]
    fn reminders_of_workflows_are_named_by_their_application(
        #[case] kind: &str,
        #[case] name: &str,
        #[case] want: (&str, &str),
    ) {
        let (kind, name) = kind_and_name("shop", kind, name.to_owned());
        assert_eq!((kind, name.as_str()), want);
    }

    #[test]
    fn the_filter_chooses_applications() {
        let group =
            |name: &str| json!({"namespace": "shop", "kind": "job", "name": name, "jobs": 1});
        let answers = [Ok(answer(&json!([group("cart"), group("stock")]), 0))];
        let names = |query| {
            let rows = page(&answers, query).0.rows.into_iter();
            rows.map(|row| row.name).collect::<Vec<_>>()
        };
        assert_eq!(names("q=car"), ["cart"]);
        assert_eq!(names("namespace=other"), [""; 0]);
        assert_eq!(names("namespace=shop"), ["cart", "stock"]);
    }

    #[test]
    fn a_scheduler_that_does_not_count_says_what_to_set() {
        let address = "10.0.0.1".parse().unwrap();
        let closed = AskError::Status { address, port: 8080, path: SCHEDULER_JOBS, status: 404 };
        assert!(page(&[Err(closed)], "").1.contains("dapr_scheduler.metadataEnabled=true"));
        let silent = AskError::Silent { address, port: 8080, reason: "refused".to_owned() };
        assert!(page(&[Err(silent)], "").1.contains("cannot be asked"));
        assert!(page(&[Ok("no JSON".into())], "").1.contains("no counts that can be read"));
    }
}
