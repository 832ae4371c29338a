//! Turns a rotation step into the one write of the Secret that carries it out.

use identity::stored::Stored;
use identity::{BundleError, BundlePem, CrossSignError, GenerateOptions};
use jiff::Timestamp;

use super::plan::{Progress, Stage, State, Step};

/// The contents of the Secret after a step.
#[derive(Debug, Clone)]
pub(crate) struct SecretUpdate {
    /// The CA; `None` keeps the stored one.
    pub(crate) ca: Option<BundlePem>,
    /// Whether sentry made this CA.
    pub(crate) ours: bool,
    /// The rotation in progress; `None` removes its annotations.
    pub(crate) progress: Option<Progress>,
    /// The CA of the next stage; `None` removes it.
    pub(crate) next: Option<BundlePem>,
}

impl SecretUpdate {
    /// A CA that sentry made, without a rotation in progress.
    pub(crate) fn idle(ca: BundlePem) -> Self {
        Self { ca: Some(ca), ours: true, progress: None, next: None }
    }
}

/// What a step requires.
#[derive(Debug)]
pub(crate) enum Action {
    /// Nothing.
    None,
    /// Write the Secret and report the message.
    Write(Box<SecretUpdate>, &'static str),
    /// Report that the rotation is not possible.
    Reject(String),
}

/// Why a step could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotationError {
    /// The CA without its old root is not usable.
    #[error("remove the old root from the CA")]
    RetireOldRoot(#[source] BundleError),
}

/// Carries out `step`. `next_ca` is the CA stored for the next stage, `rotate_annotation` the name
/// of the annotation that requests a rotation.
///
/// # Errors
/// [`RotationError`] if the resulting CA is not usable; nothing must be written then.
pub(crate) fn execute(
    step: Step,
    state: &State<'_>,
    next_ca: &Stored,
    options: &GenerateOptions<'_>,
    rotate_annotation: &str,
    now: Timestamp,
) -> Result<Action, RotationError> {
    let write = |update, message| Ok(Action::Write(Box::new(update), message));
    match (step, state.bundle) {
        (Step::Wait, _) | (Step::Begin | Step::Finish, None) => Ok(Action::None),
        (Step::Begin, Some(bundle)) => match bundle.cross_sign(options, now) {
            Ok(made) => {
                let update = SecretUpdate {
                    ca: Some(made.distribute),
                    ours: true,
                    progress: Some(Progress { stage: Stage::Distribute, since: now }),
                    next: Some(made.sign),
                };
                write(
                    update,
                    "CA rotation: started; the new root is published beside the old one, the old issuer signs",
                )
            }
            Err(e) => Ok(Action::Reject(not_possible(&e))),
        },
        (Step::Switch, _) => {
            let update = SecretUpdate {
                ca: next_ca.to_pem(),
                ours: true,
                progress: Some(Progress { stage: Stage::Sign, since: now }),
                next: None,
            };
            write(update, "CA rotation: the new issuer signs; both roots are trusted")
        }
        (Step::Finish, Some(bundle)) => {
            let ca = bundle.retire_old_root(now).map_err(RotationError::RetireOldRoot)?;
            write(
                SecretUpdate::idle(ca),
                "CA rotation: finished; the old root is no longer trusted",
            )
        }
        (Step::Abort, bundle) => {
            // A CA from outside stays as it is; sentry's own returns to its state before.
            let ours = bundle.filter(|_| state.ours);
            let ca = ours.map(|bundle| bundle.retire_old_root(now)).transpose();
            let update = match ca.map_err(RotationError::RetireOldRoot)? {
                Some(ca) => SecretUpdate::idle(ca),
                None => SecretUpdate { ca: None, ours: false, progress: None, next: None },
            };
            write(
                update,
                "CA rotation: aborted; the stored CA was replaced or the next CA is missing",
            )
        }
        (Step::Reject, _) => Ok(Action::Reject(format!(
            "{rotate_annotation} has no effect: tls.crt and tls.key in the Secret belong to another controller, which must renew them"
        ))),
    }
}

fn not_possible(e: &CrossSignError) -> String {
    format!("CA rotation: not possible without restarts: {}", runtime::chain(e))
}
