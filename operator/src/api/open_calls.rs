//! Open calls of each app, limited over all its connections.
//!
//! The replicas of an app share its identity, so that limits of a connection do not limit the app. A
//! call that waits or whose answer is not read costs memory and processor time of its own, besides the
//! bytes that [`super::budget`] limits.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::LimitMeter;

use crate::api::access::Caller;
use crate::api::error::ApiError;

/// The open calls of all apps. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OpenCalls(Arc<Shared>);

struct Shared {
    /// Open calls of one app.
    limit: usize,
    /// What the calls are, for the error.
    what: &'static str,
    open: Mutex<HashMap<Arc<App>, usize>>,
    /// Counts refused calls.
    refused: LimitMeter,
}

/// Namespace and app id.
type App = (String, String);

/// An open call. Dropping it ends it.
pub(crate) struct OpenCall {
    calls: OpenCalls,
    app: Arc<App>,
}

impl OpenCalls {
    pub(crate) fn new(what: &'static str, limit: usize, refused: LimitMeter) -> Self {
        Self(Arc::new(Shared { limit, what, open: Mutex::default(), refused }))
    }

    /// Opens a call.
    ///
    /// # Errors
    /// [`ApiError::TooManyCalls`] when the caller's app has as many as it may.
    pub(crate) fn open(&self, caller: &Caller) -> Result<OpenCall, ApiError> {
        let app = (caller.namespace.clone(), caller.app_id.clone());
        let mut open = self.lock();
        let known = open.get_key_value(&app).map(|(app, count)| (app.clone(), *count));
        let (app, count) = known.unwrap_or_else(|| (Arc::new(app), 0));
        if count >= self.0.limit {
            drop(open);
            self.0.refused.hit();
            let (what, limit) = (self.0.what, self.0.limit);
            let (namespace, app_id) = (caller.namespace.clone(), caller.app_id.clone());
            return Err(ApiError::TooManyCalls { what, limit, namespace, app_id });
        }
        open.insert(app.clone(), count + 1);
        drop(open);
        Ok(OpenCall { calls: self.clone(), app })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<App>, usize>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut open = self.calls.lock();
        match open.get_mut(&self.app) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.app)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(limit: usize) -> OpenCalls {
        let scope = runtime::Scope::for_test();
        OpenCalls::new("requests", limit, scope.limit_meter("test", "requests_per_app"))
    }

    #[test]
    fn an_app_has_as_many_open_calls_as_it_may_and_no_more() {
        let calls = calls(2);
        let orders = Caller::for_test("shop", "orders");
        let (first, _second) = (calls.open(&orders).unwrap(), calls.open(&orders).unwrap());
        let refused = calls.open(&orders).err().unwrap();
        assert_eq!(
            refused.to_string(),
            "app \"orders\" in namespace \"shop\" has 2 open requests, the most that are served; \
             try again"
        );
        for (namespace, app) in [("shop", "cart"), ("bank", "orders")] {
            assert!(calls.open(&Caller::for_test(namespace, app)).is_ok(), "{namespace}/{app}");
        }
        drop(first);
        let _third = calls.open(&orders).unwrap();
        assert!(calls.open(&orders).is_err());
    }

    #[test]
    fn nothing_is_kept_for_an_app_without_calls() {
        let calls = calls(2);
        let orders = Caller::for_test("shop", "orders");
        let open = [calls.open(&orders).unwrap(), calls.open(&orders).unwrap()];
        assert_eq!(calls.lock().len(), 1);
        drop(open);
        assert_eq!(calls.lock().len(), 0);
    }
}
