//! The graph of a large installation, from its sidecars to a browser.

use std::path::Path;

use blackbox::{Scratch, axe, browser};
use runtime::Scope;
use tokio::net::TcpListener;
use tokio::time::{Duration, timeout};

use super::*;
use crate::model::process::{Process, Sidecar};
use crate::peers::answers::METRICS;

const APPS: u16 = 500;
/// Each application calls those that are so far behind it.
const STEPS: [u16; 3] = [1, 40, 170];
/// Enough for all sidecars to answer on a machine that others use too.
const START: Duration = Duration::from_mins(1);
/// Counts what has a size and a place in the picture, and how long after its start the page has a
/// layout.
const MEASURE: &str = r#"<script>addEventListener("load", () => {
  const picture = document.querySelector("svg.graph").getBoundingClientRect();
  const isInside = (part) => {
    const own = part.getBoundingClientRect();
    return own.width > 0 && own.left >= picture.left && own.right <= picture.right
      && own.top >= picture.top && own.bottom <= picture.bottom;
  };
  const count = (name) => [...document.querySelectorAll(`svg.graph ${name}`)].filter(isInside).length;
  const found = document.createElement("output");
  found.textContent = `dots ${count("circle")}, labels ${count("text")}, ms ${performance.now()}`;
  document.body.append(found);
});</script></body>"#;

fn name(number: u16) -> String {
    format!("app-{:03}", number % APPS)
}

/// A sidecar whose application called [`STEPS`], with its metrics at a port of its own.
async fn sidecar(number: u16, scope: &Scope) -> Sidecar {
    let own = name(number);
    let sent = |step: u16| {
        let called = name(number + step);
        format!(
            "dapr_runtime_service_invocation_req_sent_total{{app_id=\"{own}\",dst_app_id=\"{called}\"}} 1\n"
        )
    };
    let metrics = STEPS.map(sent).concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().route(METRICS, get(move || std::future::ready(metrics)));
    scope.spawn_detached("sidecar", async move { axum::serve(listener, router).await.unwrap() });
    let command = format!("daprd\0--app-id\0{own}\0--metrics-port\0{port}");
    let process = Process {
        id: number.into(),
        command: command.as_bytes(),
        environment: b"",
        folder: Path::new("/"),
        started: None,
    };
    Sidecar::read(&process).unwrap()
}

/// The pages of an installation of [`APPS`] applications.
async fn large_site(scope: &Scope) -> Router {
    let mut pods = Vec::new();
    for number in 0..APPS {
        let pod = sidecar(number, scope).await.pod;
        pods.push(((pod.namespace.clone(), pod.name.clone()), pod));
    }
    let cluster = Cluster::self_hosted();
    cluster.replace(pods.into_iter().collect(), BTreeMap::new());
    let pages = Pages {
        cluster,
        peers: Peers::new(Reach::Loopback),
        logs: None,
        reviews: None,
        base: "".into(),
    };
    router(pages, Guard { allowed_hosts: Vec::new() })
}

/// The page when all sidecars have answered.
async fn graph(site: &Router) -> String {
    let complete = async {
        loop {
            let (_, page) = ask(site, "/graph", "text/html").await;
            if !page.contains("Without an answer") {
                return page;
            }
        }
    };
    timeout(START, complete).await.unwrap()
}

#[tokio::test]
async fn all_500_applications_are_asked_and_drawn() {
    let page = graph(&large_site(&Scope::for_test()).await).await;
    assert!(!page.contains("applications were asked"), "{page}");
    assert_eq!(page.matches("<circle").count(), usize::from(APPS));
    assert_eq!(page.matches("class=\"edge").count(), usize::from(APPS) * STEPS.len());
}

#[tokio::test]
#[ignore = "needs root: installs Chromium"]
async fn a_browser_draws_500_applications() {
    let site = large_site(&Scope::for_test()).await;
    let page = graph(&site).await;
    let (_, style) = ask(&site, "/assets/style.css", "text/css").await;
    // The policy of the page admits no script of this test, so the page is opened from a file.
    let page = page.replacen("</head>", &format!("<style>{style}</style></head>"), 1);
    let page = page.replacen("</body>", MEASURE, 1);
    let scratch = Scratch::new("graph").unwrap();
    let file = scratch.write("graph.html", page).unwrap();
    let opened = browser::open(&format!("file://{}", file.display())).unwrap();
    let found = opened.document.split_once("<output>").unwrap().1;
    let found = found.split_once("</output>").unwrap().0;
    println!("500 applications, 1,500 calls: {found}");
    assert!(found.starts_with("dots 500, labels 500, "), "{found}");
}

#[tokio::test]
#[ignore = "needs root: installs Chromium"]
async fn the_graph_of_500_applications_has_no_serious_fault() {
    let site = large_site(&Scope::for_test()).await;
    let page = graph(&site).await;
    let (_, style) = ask(&site, "/assets/style.css", "text/css").await;
    let found = axe::serious_faults(&page, &style).unwrap();
    assert!(found.is_empty(), "{found:#?}");
}
