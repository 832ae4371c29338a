//! Placement: where actors live
