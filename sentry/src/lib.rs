//! Sentry: the SPIFFE certificate authority
