//! Custom resource types, label, annotation and port vocabulary, Kubernetes names
