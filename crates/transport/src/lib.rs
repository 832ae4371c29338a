//! mTLS with live rotation: SVID source, SPIFFE peer checks, one accept loop for gRPC and HTTPS
