//! SPIFFE identities, X.509 and JWT issuing and verifying; pure, time is an argument
