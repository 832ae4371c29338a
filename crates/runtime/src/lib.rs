//! The process: flags, logs, health, metrics, shutdown, Kubernetes client, leader lease
