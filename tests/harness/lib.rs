//! The test bed: a real Kubernetes on this machine, and the processes of the black-box suites.
