//! Calls to the API server by path. Each returns a [`Fact`].

use http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use kube::Client;
use kube::client::Body;
use kubernetes::api_text;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::facts::{Fact, ReadError};

const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
/// Objects per page of a list.
const PAGE: u32 = 500;
/// Upper limit of objects per list, which bounds memory.
const MAX_OBJECTS: usize = 100_000;

/// The answer to the creation of an object.
pub(super) enum DryRun {
    /// The object as the API server would store it.
    Accepted(Value),
    /// The caller, or the impersonated user, lacks the right.
    Forbidden,
    /// Admission rejected the object with this message.
    Rejected(String),
}

pub(crate) struct Reader {
    client: Client,
}

impl Reader {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client, for what is no call by path.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Version and time of the API server; the time is the date of the answer (RFC 9110 §6.6.1).
    pub(super) async fn server(&self) -> Fact<(Value, Option<Timestamp>)> {
        let doing = "get the version of the API server";
        let request =
            Request::get("/version").body(Body::empty()).map_err(|e| request_error(doing, &e))?;
        let answer = self.client.send(request).await.map_err(|e| read_error(doing, &e))?;
        let status = answer.status();
        let there = date(answer.headers());
        let body =
            answer.into_body().collect().await.map_err(|e| read_error(doing, &e))?.to_bytes();
        if !status.is_success() {
            let said = format!("the answer is {status}");
            return Err(ReadError::Failed { doing: doing.to_owned(), said });
        }
        let version = serde_json::from_slice(&body);
        Ok((version.map_err(|e| request_error(doing, &e))?, there))
    }

    /// Served API groups and versions.
    pub(super) async fn groups(&self) -> Fact<Vec<String>> {
        let found: Option<Value> = self.get("list API groups", "/apis").await?;
        let groups = found.as_ref().and_then(|found| found.get("groups")?.as_array());
        let versions = groups.into_iter().flatten().filter_map(|g| g.get("versions")?.as_array());
        let named = versions.flatten().filter_map(|v| v.get("groupVersion")?.as_str());
        Ok(named.map(str::to_owned).collect())
    }

    /// An object; `None` if it does not exist.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        doing: &str,
        path: &str,
    ) -> Fact<Option<T>> {
        let request = Request::get(path).body(Vec::new()).map_err(|e| request_error(doing, &e))?;
        match self.client.request(request).await {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if status.code == NOT_FOUND => Ok(None),
            Err(error) => Err(read_error(doing, &error)),
        }
    }

    /// An answer that is no JSON.
    pub(crate) async fn text(&self, doing: &str, path: &str) -> Fact<String> {
        let request = Request::get(path).body(Vec::new()).map_err(|e| request_error(doing, &e))?;
        self.client.request_text(request).await.map_err(|error| read_error(doing, &error))
    }

    /// All objects of a list; none if the API server does not serve their kind.
    pub(crate) async fn list(&self, doing: &str, path: &str) -> Fact<Vec<Value>> {
        self.list_as(doing, path, |object| object).await
    }

    /// Applies `keep` to each object of a list. Only one page of objects is in memory.
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
                Some(token) if !token.is_empty() && kept.len() < MAX_OBJECTS => {
                    next = format!("&continue={token}"); // base64url: nothing to escape
                }
                _ => return Ok(kept),
            }
        }
    }

    /// Creates an object that is not stored: an access review, or any other with `dryRun=All`.
    pub(super) async fn create(
        &self,
        doing: &str,
        path: &str,
        object: &Value,
        headers: &HeaderMap,
    ) -> Fact<DryRun> {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(object.to_string().into_bytes());
        match self.client.request(request.map_err(|e| request_error(doing, &e))?).await {
            Ok(answer) => Ok(DryRun::Accepted(answer)),
            Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
                let words = status.message.clone();
                Ok(if lacks_right(&words) { DryRun::Forbidden } else { DryRun::Rejected(words) })
            }
            Err(kube::Error::Api(status)) => Ok(DryRun::Rejected(status.message.clone())),
            Err(error) => Err(read_error(doing, &error)),
        }
    }
}

/// Whether authorisation rejected the request. Admission uses the same status code with another
/// message (Kubernetes 1.34, `responsewriters.Forbidden`).
fn lacks_right(message: &str) -> bool {
    let words = [" cannot create resource ", " cannot impersonate resource "];
    words.iter().any(|words| message.contains(words))
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

fn read_error(doing: &str, error: &kube::Error) -> ReadError {
    match error {
        kube::Error::Api(status) if status.code == FORBIDDEN => {
            ReadError::Forbidden(doing.to_owned())
        }
        error => ReadError::Failed { doing: doing.to_owned(), said: api_text(error) },
    }
}

fn request_error(doing: &str, error: &dyn std::error::Error) -> ReadError {
    ReadError::Failed { doing: doing.to_owned(), said: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_date_of_an_answer() {
        let mut headers = HeaderMap::new();
        assert_eq!(date(&headers), None);
        headers.insert(header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(date(&headers), Some("1994-11-06T08:49:37Z".parse().unwrap()));
    }

    #[test]
    fn a_missing_right_differs_from_a_rejection() {
        let rbac =
            "pods is forbidden: User \"me\" cannot create resource \"pods\" in API group \"\"";
        let guard = "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'dapr-sidecar-guard' with binding 'dapr-sidecar-guard' denied request: the pod asks for a Dapr sidecar";
        assert!(lacks_right(rbac));
        assert!(!lacks_right(guard));
    }
}
