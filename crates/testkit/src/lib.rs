//! Test helpers: waiting for conditions, a throw-away CA
