//! Facts to findings: every check, one function per question. Pure.
//!
//! Before an installation `api`, `nodes` and `existing` look at what it needs and what stands in its
//! way; after it the others look at what is there.

pub mod api;
mod control_plane;
mod data_plane;
mod definitions;
mod existing;
mod identity;
mod injection;
mod nodes;
pub mod rights;

use crate::facts::{Asked, Facts};
use crate::finding::Finding;

/// All findings about a cluster; the order within a group is that of the checks.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = api::findings(facts);
    all.extend(nodes::findings(facts));
    match &facts.asked {
        Asked::Before(permissions) => {
            all.extend(rights::of_the_caller(permissions));
            all.extend(existing::findings(facts));
        }
        Asked::After { accounts, conversion, probe } => {
            all.extend(control_plane::findings(facts));
            all.extend(rights::of_accounts(accounts, facts));
            all.extend(definitions::findings(facts, conversion));
            all.extend(identity::findings(facts));
            all.extend(injection::findings(facts, probe));
            all.extend(data_plane::findings(facts));
        }
    }
    all
}

#[cfg(test)]
mod tests;
