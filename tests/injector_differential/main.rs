//! Our injector beside Dapr's: the same admission requests to both, the same pods from both, except
//! for the intended differences in `differences`.
//!
//! The requests are the recorded cases of `fixtures/injector` and generated pods. The answers of
//! Dapr's injector are recorded beside them, so that the comparison needs neither of the two as a
//! process; the other test calls both. `TRILBY_RECORD=1` records its answers again.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod compare;
mod corpus;
mod differences;
mod generator;
mod mutants;
mod sides;

use std::collections::BTreeSet;

use blackbox::injector_fixture::Rights;
use blackbox::{InjectorFixture, environment};
use resources::annotations::POD;
use serde_json::json;
use testkit::Choice;

use compare::{Outcome, compare};
use corpus::{Corpus, Question};
use differences::DIFFERENCES;
use sides::{Processes, SETTINGS};

/// Minimum number of generated pods.
const PODS: usize = 600;
/// Of so many generated pods one goes to the processes, and each that shows a difference first. All
/// are compared with the recording.
const SAMPLE: usize = 4;

#[test]
fn answers_as_dapr_recorded_but_for_the_listed_differences() {
    let corpus = Corpus::recorded();
    let cores = sides::cores();
    assert!(corpus.cases.len() >= PODS);
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for case in &corpus.cases {
        let question = Question::new(&case.request);
        let setting = &cores[case.setting];
        let ours = Outcome::of(&case.request, &setting.answer(&case.request));
        assert_eq!(question.differences, case.differences, "{}: record again", case.name);
        met.extend(question.differences.iter().cloned());
        wrong.extend(compare(&case.name, &question, &case.answer, ours));
    }
    assert!(wrong.is_empty(), "{} pods differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(unseen(&met), [""; 0], "differences that no pod shows");
}

#[test]
fn answers_as_daprs_own_injector_does_but_for_the_listed_differences() {
    let api = InjectorFixture::start(Rights::Ours).unwrap();
    sides::create_components(&api);
    let anchors = api.anchors().unwrap();
    let pairs: Vec<Processes> = SETTINGS.iter().map(|s| Processes::start(&api, s)).collect();
    let (mut wrong, mut telling) = (Vec::new(), BTreeSet::new());
    let mut recorded = Corpus::default();
    let records = environment::var("TRILBY_RECORD").is_some();
    for (number, (name, setting, request)) in corpus::requests(PODS).into_iter().enumerate() {
        let question = Question::new(&request);
        let is_known = question.differences.iter().all(|difference| telling.contains(difference));
        if Corpus::is_generated(&name) && is_known && !records && number % SAMPLE != 0 {
            continue;
        }
        let pair = &pairs[setting];
        let ours = sides::without_anchors(&pair.ours.decide(&request).unwrap(), &anchors);
        let ours = Outcome::of(&request, &ours).without_token();
        let answer = pair.reference_decides(&question.rewritten);
        let answer = sides::without_anchors(&answer, &anchors);
        if !question.differences.is_empty() {
            // An entry of the list without effect is no difference.
            let plain = pair.reference_decides(&request);
            let plain = sides::without_anchors(&plain, &anchors);
            let plain = Outcome::of(&request, &plain).normal();
            if plain != question.restored(&answer).normal() {
                telling.extend(question.differences.iter().cloned());
            }
        }
        wrong.extend(compare(&name, &question, &answer, ours));
        recorded.push(&name, setting, &request, &question, answer);
    }
    if records {
        recorded.write();
    }
    assert!(wrong.is_empty(), "{} pods differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(unseen(&telling), [""; 0], "listed differences that make none");
}

/// Every request is answered, and with a patch that applies.
#[test]
fn no_twisted_or_spoilt_request_does_harm() {
    let (cores, corpus, mut choice) = (sides::cores(), Corpus::recorded(), Choice::new(1));
    for case in &corpus.cases {
        for _ in 0..8 {
            let mut review = json!({"request": case.request});
            mutants::twist(&mut review["request"], &mut choice);
            let mut body = review.to_string().into_bytes();
            if let Some(answer) = cores[case.setting].answer_body(&body) {
                let pod = Outcome::of(&review["request"], &answer);
                assert!(pod.is_whole(), "{}: {review} became {pod:?}", case.name);
            }
            mutants::spoil(&mut body, &mut choice);
            let _ = cores[case.setting].answer_body(&body);
        }
    }
}

/// Any text in any annotation: the pod is rejected, or gets a sidecar that needs no second patch.
#[test]
fn no_annotation_does_harm() {
    let (cores, mut choice) = (sides::cores(), Choice::new(2));
    for turn in 0..POD.len() * 30 {
        let core = &cores[turn % cores.len()];
        let mut request = json!({
            "kind": {"kind": "Pod"}, "userInfo": {"groups": ["system:masters"]},
            "namespace": "default", "object": mutants::annotated(turn, &mut choice),
        });
        let answer = core.answer(&request);
        if !answer.allowed {
            continue;
        }
        let pod = Outcome::of(&request, &answer);
        assert!(pod.is_whole(), "{request} became {pod:?}");
        request["object"] = pod.into_pod();
        assert_eq!(core.answer(&request).patch, json!([]), "a second patch for {request}");
    }
}

/// The listed differences that are not among these, with their reasons.
fn unseen(seen: &BTreeSet<String>) -> Vec<String> {
    let unseen = DIFFERENCES.iter().filter(|difference| !seen.contains(difference.name));
    unseen.map(|difference| format!("{}: {}", difference.name, difference.reason)).collect()
}
