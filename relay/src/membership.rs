//! Whether the canister has granted this relay.
//!
//! Nobody pushes this to the relay, so it asks: at the start, after every refusal, and while it is
//! not granted again with every poll, so that a grant takes effect by itself.

use std::{io::Write, sync::Arc, time::Duration};

use layer2::{Layer2, Role};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What the relay knows of its standing with L2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// L2 has not been reached yet, or there is none.
    Unknown,
    /// It may read and write.
    Granted,
    /// It may not write.
    NotGranted,
}

/// Keeps `membership` true until `stop`. `doubt` wakes it out of turn.
pub async fn watch_membership(
    layer2: Arc<dyn Layer2>,
    membership: watch::Sender<Membership>,
    doubt: Arc<Notify>,
    interval: Duration,
    stop: CancellationToken,
) {
    loop {
        let told = tokio::select! {
            () = stop.cancelled() => return,
            told = layer2.role() => told,
        };
        match told {
            Ok(role) => note(&membership, role, layer2.as_ref()),
            Err(error) => {
                if *membership.borrow() == Membership::Unknown {
                    warn!(%error, "L2 cannot be reached yet; going on without it");
                }
            }
        }
        let is_granted = *membership.borrow() == Membership::Granted;
        tokio::select! {
            () = stop.cancelled() => return,
            () = doubt.notified() => {}
            () = tokio::time::sleep(interval), if !is_granted => {}
        }
    }
}

fn note(membership: &watch::Sender<Membership>, role: Option<Role>, layer2: &dyn Layer2) {
    let now = match role {
        Some(Role::Owner | Role::Relay) => Membership::Granted,
        Some(Role::Reader) | None => Membership::NotGranted,
    };
    let has_changed = membership.send_if_modified(|before| std::mem::replace(before, now) != now);
    match now {
        Membership::Granted if has_changed => {
            info!(l2 = %layer2.name(), "L2 lets this relay write")
        }
        Membership::NotGranted if has_changed => {
            let message = how_to_grant(layer2);
            warn!("{message}");
            // Not `println!`: whoever started the relay may have stopped to read.
            let _ = writeln!(std::io::stdout(), "not granted {message}");
        }
        _ => {}
    }
}

/// What the operator of the canister has to do.
fn how_to_grant(layer2: &dyn Layer2) -> String {
    let name = layer2.name();
    let Some(principal) = layer2.principal() else {
        return format!("this relay may not write to {name}");
    };
    format!(
        "this relay has not been granted by canister {name}. Its owner can grant it with: \
         dfx canister call {name} grant '(principal \"{principal}\", variant {{ relay }}, \"\")'"
    )
}
