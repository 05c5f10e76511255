//! The relay information document (NIP-11): what this relay is, does and allows.

use serde_json::{Value, json};

use crate::{config::Config, identity::Identity};

/// The NIPs that are on. NIP-09 and NIP-01 are kept by the stores; the rest by this crate.
const SUPPORTED_NIPS: [u16; 3] = [1, 9, 11];

/// The document as JSON.
pub fn document(config: &Config, identity: &Identity) -> Value {
    let limits = &config.limits;
    let mut document = json!({
        "name": config.about.name,
        "description": config.about.description,
        "self": identity.public_key().to_string(),
        "supported_nips": SUPPORTED_NIPS,
        "software": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "limitation": {
            "max_message_length": limits.message_bytes_max,
            "max_content_length": limits.event_bytes_max,
            "max_event_tags": limits.event_tags_max,
            "max_subscriptions": limits.subscriptions_max,
            "max_subid_length": 64,
            "max_limit": limits.limit_max,
            "default_limit": limits.limit_default,
            "created_at_upper_limit": limits.future_seconds_max,
            "auth_required": false,
            "payment_required": false,
            "restricted_writes": false,
        },
    });
    if let Some(contact) = &config.about.contact {
        document["contact"] = json!(contact);
    }
    document
}
