//! The checks: pure functions of facts to findings, one per question.
//!
//! Start at [`findings`]. Before an installation `api`, `nodes`, `rights` and `existing` check its
//! requirements; the other modules check an installation.

mod api;
mod control_plane;
mod data_plane;
mod definitions;
mod existing;
mod finding;
mod identity;
mod injection;
mod nodes;
mod report;
pub(crate) mod rights;
mod sidecars;

use finding::Finding;
pub(crate) use report::Report;

use crate::facts::{Facts, Queries};

/// All findings about a cluster.
pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = api::findings(facts);
    all.extend(nodes::findings(facts));
    match &facts.queries {
        Queries::PreInstall(permissions) => {
            all.extend(rights::of_the_caller(permissions));
            all.extend(existing::findings(facts));
        }
        Queries::Installed { accounts, conversion, probe } => {
            all.extend(control_plane::findings(facts));
            all.extend(rights::of_accounts(accounts, facts));
            all.extend(definitions::findings(facts, conversion));
            all.extend(identity::findings(facts));
            all.extend(injection::findings(facts, probe));
            all.extend(data_plane::findings(facts));
            all.extend(sidecars::findings(facts));
        }
    }
    all
}

#[cfg(test)]
mod tests;
