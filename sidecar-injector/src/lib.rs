//! The sidecar injector: a mutating webhook that adds daprd to annotated pods
