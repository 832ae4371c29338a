//! Calls to the API server, by path: what comes back is a fact, whatever it is.

use http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use kube::Client;
use kube::client::Body;
use kubernetes::api_text;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::facts::{Fact, Unread};

const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
/// Objects per page of a list.
const PAGE: u32 = 500;
/// Objects per list at most: more would say no more, and memory has an end.
const MOST: usize = 100_000;

/// What the API server says to an object that it is offered.
pub(super) enum Offered {
    /// As it would be stored.
    Taken(Value),
    /// The caller, or whom it acts for, may not create it.
    Forbidden,
    /// It is refused with these words.
    Refused(String),
}

/// Reads by path.
pub(super) struct Reader {
    client: Client,
}

impl Reader {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The API server's version, and its clock by the date of the answer (RFC 9110 §6.6.1).
    pub(super) async fn server(&self) -> Fact<(Value, Option<Timestamp>)> {
        let doing = "ask the API server for its version";
        let request =
            Request::get("/version").body(Body::empty()).map_err(|e| unsent(doing, &e))?;
        let answer = self.client.send(request).await.map_err(|e| unread(doing, &e))?;
        let status = answer.status();
        let there = date(answer.headers());
        let body = answer.into_body().collect().await.map_err(|e| unread(doing, &e))?.to_bytes();
        if !status.is_success() {
            let said = format!("it answers {status}");
            return Err(Unread::Failed { doing: doing.to_owned(), said });
        }
        let version = serde_json::from_slice(&body);
        Ok((version.map_err(|e| unsent(doing, &e))?, there))
    }

    /// Served groups and versions.
    pub(super) async fn groups(&self) -> Fact<Vec<String>> {
        let found: Option<Value> = self.get("list API groups", "/apis").await?;
        let groups = found.as_ref().and_then(|found| found.get("groups")?.as_array());
        let versions = groups.into_iter().flatten().filter_map(|g| g.get("versions")?.as_array());
        let named = versions.flatten().filter_map(|v| v.get("groupVersion")?.as_str());
        Ok(named.map(str::to_owned).collect())
    }

    /// An object, `None` when there is none.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        doing: &str,
        path: &str,
    ) -> Fact<Option<T>> {
        let request = Request::get(path).body(Vec::new()).map_err(|e| unsent(doing, &e))?;
        match self.client.request(request).await {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if status.code == NOT_FOUND => Ok(None),
            Err(error) => Err(unread(doing, &error)),
        }
    }

    /// All objects of a list, none when the API server does not know their kind.
    pub(super) async fn list(&self, doing: &str, path: &str) -> Fact<Vec<Value>> {
        self.list_as(doing, path, |object| object).await
    }

    /// What `keep` makes of every object of a list; the objects of one page are held at a time.
    pub(super) async fn list_as<T>(
        &self,
        doing: &str,
        path: &str,
        keep: impl Fn(Value) -> T,
    ) -> Fact<Vec<T>> {
        let mut kept = Vec::new();
        let mut next = String::new();
        let glue = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = format!("{path}{glue}limit={PAGE}{next}");
            let Some(mut page) = self.get::<Value>(doing, &page).await? else { return Ok(kept) };
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                kept.extend(items.into_iter().map(&keep));
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() && kept.len() < MOST => {
                    next = format!("&continue={token}"); // base64url: nothing to escape
                }
                _ => return Ok(kept),
            }
        }
    }

    /// Creates an object: a review, which is answered and not stored, or with `dryRun=All` in the
    /// path any other.
    pub(super) async fn create(
        &self,
        doing: &str,
        path: &str,
        object: &Value,
        headers: &HeaderMap,
    ) -> Fact<Offered> {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(object.to_string().into_bytes());
        match self.client.request(request.map_err(|e| unsent(doing, &e))?).await {
            Ok(answer) => Ok(Offered::Taken(answer)),
            Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
                let words = status.message.clone();
                Ok(if lacks_right(&words) { Offered::Forbidden } else { Offered::Refused(words) })
            }
            Err(kube::Error::Api(status)) => Ok(Offered::Refused(status.message.clone())),
            Err(error) => Err(unread(doing, &error)),
        }
    }
}

/// Admission refuses with the same code as authorisation; the words differ (Kubernetes 1.34,
/// `responsewriters.Forbidden`).
fn lacks_right(message: &str) -> bool {
    let words = [" cannot create resource ", " cannot impersonate resource "];
    words.iter().any(|words| message.contains(words))
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

fn unread(doing: &str, error: &kube::Error) -> Unread {
    match error {
        kube::Error::Api(status) if status.code == FORBIDDEN => Unread::Forbidden(doing.to_owned()),
        error => Unread::Failed { doing: doing.to_owned(), said: api_text(error) },
    }
}

fn unsent(doing: &str, error: &dyn std::error::Error) -> Unread {
    Unread::Failed { doing: doing.to_owned(), said: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_date_of_an_answer() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(date(&headers), Some("1994-11-06T08:49:37Z".parse().unwrap()));
    }

    #[test]
    fn a_missing_right_is_told_from_a_refusal() {
        let rbac =
            "pods is forbidden: User \"me\" cannot create resource \"pods\" in API group \"\"";
        let guard = "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'dapr-sidecar-guard' with binding 'dapr-sidecar-guard' denied request: the pod asks for a Dapr sidecar";
        assert!(lacks_right(rbac));
        assert!(!lacks_right(guard));
    }
}
