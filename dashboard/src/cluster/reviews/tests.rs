use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Response;
use runtime::clock;
use tower::{BoxError, service_fn};

use super::*;
use crate::model::access::MAX_NAMESPACES;

type Reply = Result<Response<Body>, BoxError>;

fn reply(status: u16, body: &Value) -> Reply {
    Ok(Response::builder().status(status).body(body.to_string().into_bytes().into())?)
}

fn allowed(may: bool) -> Reply {
    reply(201, &json!({"status": {"allowed": may}}))
}

fn lost() -> Reply {
    Err("connection closed".into())
}

/// Reviews by an API server that answers its requests, which are numbered, so; and their number.
fn reviews(answer: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (Reviews, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = service_fn(move |_: Request<Body>| {
        std::future::ready(answer(count.fetch_add(1, Ordering::Relaxed)))
    });
    (Reviews::new(Client::new(service, "default")), asked)
}

/// A cluster with a pod of an application in each of this many namespaces.
fn cluster(namespaces: usize) -> Snapshot {
    Snapshot::of_pods((0..namespaces).map(|number| {
        json!({"metadata": {"namespace": format!("n{number:03}"), "name": "p",
            "annotations": {"dapr.io/enabled": "true"}}})
    }))
}

fn rights() -> usize {
    Right::all().count()
}

#[tokio::test]
async fn a_token_that_is_refused_costs_one_review() {
    let (reviews, asked) = reviews(|_| reply(401, &json!({})));
    let refused = reviews.restrict("wrong", &cluster(1), clock::monotonic()).await;
    assert_eq!(refused.unwrap_err(), ReviewError::Unauthorized);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_review_whose_connection_is_lost_is_repeated_once() {
    let (once, asked) = reviews(|number| if number == 0 { lost() } else { allowed(true) });
    let seen = once.restrict("t", &cluster(1), clock::monotonic()).await.unwrap();
    assert_eq!(seen.pods.iter().count(), 1);
    assert_eq!(asked.load(Ordering::Relaxed), rights() + 1);

    let (twice, asked) = reviews(|number| if number < 2 { lost() } else { allowed(true) });
    let failed = twice.restrict("t", &cluster(1), clock::monotonic()).await.unwrap_err();
    assert!(matches!(&failed, ReviewError::Unavailable(why) if why.contains("closed")), "{failed}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_refused_token_wins_over_the_failures_that_it_causes() {
    let (reviews, _) = reviews(|number| match number {
        0 => allowed(true),
        1 => reply(503, &json!({})),
        2 => reply(401, &json!({})),
        _ => lost(),
    });
    let refused = reviews.restrict("expired", &cluster(1), clock::monotonic()).await;
    assert_eq!(refused.unwrap_err(), ReviewError::Unauthorized);
}

#[tokio::test]
async fn a_right_that_is_taken_away_counts_30_seconds_and_no_longer() {
    let may = Arc::new(AtomicBool::new(true));
    let current = may.clone();
    let (reviews, asked) = reviews(move |_| allowed(current.load(Ordering::Relaxed)));
    let (all, start) = (cluster(1), clock::monotonic());
    let almost = FRESH.saturating_sub(Duration::from_nanos(1));
    let pods = async |after: Duration| {
        let seen = reviews.restrict("t", &all, start + after).await.unwrap();
        seen.pods.iter().count()
    };
    assert_eq!(pods(Duration::ZERO).await, 1);
    may.store(false, Ordering::Relaxed);
    assert_eq!(pods(almost).await, 1);
    assert_eq!(asked.load(Ordering::Relaxed), rights(), "answers that count are not asked for");
    assert_eq!(pods(FRESH).await, 0);
    may.store(true, Ordering::Relaxed);
    assert_eq!(pods(FRESH + almost).await, 0);
    assert_eq!(pods(2 * FRESH).await, 1);
}

#[tokio::test]
async fn an_answer_of_the_limit_is_read_and_one_byte_more_is_not() {
    let sized = |bytes: usize| {
        let empty = json!({"pad": ""}).to_string().len();
        reviews(move |_| reply(201, &json!({"pad": "a".repeat(bytes - empty)})))
    };
    let (all, now) = (cluster(1), clock::monotonic());
    assert!(sized(MAX_BYTES).0.restrict("t", &all, now).await.is_ok());
    let (past, asked) = sized(MAX_BYTES + 1);
    assert!(past.restrict("t", &all, now).await.is_err());
    assert_eq!(
        asked.load(Ordering::Relaxed),
        1,
        "an answer that is too long is not asked for again"
    );
}

#[tokio::test]
async fn reviews_at_the_same_time_are_limited_for_a_page_and_for_all() {
    let most = async |pages: usize| {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = most.clone();
        let service = service_fn(move |_: Request<Body>| {
            let (now, seen) = (now.clone(), seen.clone());
            async move {
                seen.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                // Long enough for all that may be sent to be sent.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::Relaxed);
                allowed(false)
            }
        });
        let reviews = Reviews::new(Client::new(service, "default"));
        let (all, at) = (cluster(2 * PER_PAGE), clock::monotonic());
        let tokens: Vec<_> = (0..pages).map(|user| user.to_string()).collect();
        join_all(tokens.iter().map(|token| reviews.restrict(token, &all, at))).await;
        most.load(Ordering::Relaxed)
    };
    assert_eq!(most(1).await, PER_PAGE);
    assert_eq!(most(AT_ONCE / PER_PAGE + 1).await, AT_ONCE);
}

#[tokio::test]
async fn what_is_in_namespaces_past_the_limit_is_left_out_and_said() {
    for (namespaces, is_cut) in [(MAX_NAMESPACES, false), (MAX_NAMESPACES + 1, true)] {
        // No right in all namespaces, and every right in each.
        let (reviews, _) = reviews(|number| allowed(number >= rights()));
        let seen = reviews.restrict("t", &cluster(namespaces), clock::monotonic()).await.unwrap();
        assert_eq!(seen.pods.iter().count(), MAX_NAMESPACES);
        assert_eq!(seen.visible.unwrap().is_cut, is_cut);
    }
}

#[test]
fn no_more_answers_are_kept_than_the_limit_says() {
    let (mut kept, now) = (Kept::default(), clock::monotonic());
    let question = |number: usize| Question {
        user: User([0; 32]),
        right: Right::Pods,
        namespace: number.to_string(),
    };
    for number in 0..=MAX_KEPT {
        kept.put(question(number), true, now);
    }
    assert_eq!(kept.0.len(), MAX_KEPT);
    kept.forget_old(now + FRESH);
    kept.put(question(MAX_KEPT + 1), true, now + FRESH);
    assert_eq!(kept.0.len(), 1, "those that count no more make room");
}

#[tokio::test(start_paused = true)]
async fn reviews_for_a_page_have_a_time_limit() {
    let after = async |late: Duration| {
        let service = service_fn(move |_: Request<Body>| async move {
            tokio::time::sleep(late).await;
            allowed(true)
        });
        let reviews = Reviews::new(Client::new(service, "default"));
        reviews.restrict("t", &cluster(1), clock::monotonic()).await
    };
    // Two batches, one after the other: the first right, then the others.
    let (step, more) = (LIMIT / 2, Duration::from_millis(1));
    assert!(after(step.saturating_sub(more)).await.is_ok());
    let late = after(step + more).await.unwrap_err();
    assert!(matches!(&late, ReviewError::Unavailable(why) if why.contains("10s")), "{late}");
}
