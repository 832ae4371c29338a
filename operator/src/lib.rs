//! The operator: serves custom resources to sidecars and keeps their Services
