//! Which paths of the state tree may be read by whom, and what is there.

use candid::Principal;
use ic_certification::Label;
use ic_transport_types::SubnetMetrics;

use crate::cert::{Tree, cbor, leb128};
use crate::ic::Ic;
use crate::message::IngressStatus;
use crate::topology::Subnet;
use crate::verify::Targets;
use crate::wasm::prepare::Visibility;

/// More paths are not served at once, nor paths that are deeper.
const PATHS_MAX: usize = 1000;
const LABELS_MAX: usize = 127;

/// Why a path is not served.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no such path for anybody.
    Invalid,
    /// It is somebody else's.
    Forbidden,
}

/// Who reads, and through which address.
pub struct Reader {
    pub sender: Principal,
    /// The canisters whose answers the signer may see.
    pub targets: Targets,
    /// The canister or subnet in the URL.
    pub effective: Principal,
}

type Path = Vec<Label>;

/// A tree with the requested paths as far as they exist.
pub fn read(ic: &Ic, paths: &[Path], reader: &Reader) -> Result<Tree, Denied> {
    if paths.len() > PATHS_MAX || paths.iter().any(|path| path.len() > LABELS_MAX) {
        return Err(Denied::Invalid);
    }
    let mut tree = Tree::at_time(ic.time);
    let mut request = None;
    for path in paths {
        let labels: Vec<&[u8]> = path.iter().map(Label::as_bytes).collect();
        match labels.as_slice() {
            [] | [b"time"] | [b"api_boundary_nodes", ..] => {}
            [b"subnet", rest @ ..] => insert_subnets(ic, &mut tree, rest),
            [b"canister_ranges", rest @ ..] => {
                insert_subnets(ic, &mut tree, &rest[..rest.len().min(1)])
            }
            [b"request_status", id, ..] => {
                // One request at a time, so that nobody can search for those of others.
                if request.replace(*id).is_some_and(|before| before != *id) {
                    return Err(Denied::Invalid);
                }
                insert_request(ic, &mut tree, id, reader)?;
            }
            [b"canister", id, rest @ ..] => insert_canister(ic, &mut tree, id, rest, reader)?,
            _ => return Err(Denied::Invalid),
        }
    }
    Ok(tree)
}

fn insert_subnets(ic: &Ic, tree: &mut Tree, rest: &[&[u8]]) {
    let wanted = rest.first();
    for subnet in &ic.subnets.all {
        let id = subnet.id();
        if wanted.is_some_and(|wanted| *wanted != id.as_slice()) {
            continue;
        }
        let keys = &subnet.authority.keys;
        let at = |name: &'static str| [b"subnet", id.as_slice(), name.as_bytes()];
        tree.insert(&at("public_key"), keys.der.clone());
        tree.insert(&at("type"), subnet.plan.type_name().into());
        let node = [b"node", keys.node.as_slice(), b"public_key"];
        tree.insert(&[&at("node")[..2], &node[..]].concat(), keys.node_der.clone());
        subnet.authority.insert_ranges(tree);
        if rest.get(1).is_some_and(|name| *name == b"metrics") {
            tree.insert(&at("metrics"), metrics(ic, subnet));
        }
    }
}

fn metrics(ic: &Ic, subnet: &Subnet) -> Vec<u8> {
    let canisters = ic.canisters.values();
    let here: Vec<_> = canisters.filter(|canister| subnet.plan.contains(canister.id)).collect();
    let metrics = SubnetMetrics {
        num_canisters: here.len() as u64,
        canister_state_bytes: here.iter().map(|canister| canister.memory_bytes()).sum(),
        consumed_cycles_total: 0,
        update_transactions_total: ic.ingress.messages.len() as u64,
    };
    serde_cbor::ser::to_vec_packed(&metrics).expect("plain data")
}

fn insert_request(ic: &Ic, tree: &mut Tree, id: &[u8], reader: &Reader) -> Result<(), Denied> {
    let id: [u8; 32] = id.try_into().map_err(|_| Denied::Invalid)?;
    let Some(ingress) = ic.ingress.messages.get(&id) else {
        return Ok(()); // Absent: not (yet) known.
    };
    if ingress.sender != reader.sender || !reader.targets.contains(ingress.canister) {
        return Err(Denied::Forbidden);
    }
    insert_status(tree, &id, &ingress.status);
    Ok(())
}

pub fn insert_status(tree: &mut Tree, id: &[u8; 32], status: &IngressStatus) {
    let at = |name: &'static str| [&b"request_status"[..], id, name.as_bytes()];
    let text = match status {
        IngressStatus::Received => "received",
        IngressStatus::Processing => "processing",
        IngressStatus::Done => "done",
        IngressStatus::Replied(bytes) => {
            tree.insert(&at("reply"), bytes.clone());
            "replied"
        }
        IngressStatus::Rejected(reject) => {
            tree.insert(&at("reject_code"), leb128(reject.reject_code() as u64));
            tree.insert(&at("reject_message"), reject.message.clone().into());
            tree.insert(&at("error_code"), reject.error_code().into());
            "rejected"
        }
    };
    tree.insert(&at("status"), text.into());
}

/// `certified_data` is not among these: on the Internet Computer it is certified only through
/// `ic0.data_certificate_copy`, and a test that reads it here would fail there.
fn insert_canister(
    ic: &Ic,
    tree: &mut Tree,
    id: &[u8],
    rest: &[&[u8]],
    reader: &Reader,
) -> Result<(), Denied> {
    if id != reader.effective.as_slice() {
        return Err(Denied::Invalid);
    }
    let canister = ic.canisters.get(&reader.effective);
    let code = canister.and_then(|canister| canister.body.code.as_ref());
    match rest {
        [b"controllers"] => {
            if let Some(canister) = canister {
                let controllers = cbor(&canister.settings.controllers);
                tree.insert(&[b"canister", id, b"controllers"], controllers);
            }
        }
        [b"module_hash"] => {
            if let Some(code) = code {
                tree.insert(&[b"canister", id, b"module_hash"], code.hash.to_vec());
            }
        }
        [b"metadata", name] => {
            let section = std::str::from_utf8(name).ok().and_then(|name| code?.metadata.get(name));
            let Some((visibility, bytes)) = section else {
                return Ok(());
            };
            let is_controller = canister.is_some_and(|c| c.is_controller(reader.sender));
            if *visibility == Visibility::Private && !is_controller {
                return Err(Denied::Forbidden);
            }
            tree.insert(&[b"canister", id, b"metadata", name], bytes.clone());
        }
        _ => return Err(Denied::Invalid),
    }
    Ok(())
}
