//! The relay information document (NIP-11), and the same for people: what this relay is, does and allows.

use maud::{DOCTYPE, html};
use serde_json::{Value, json};

use crate::{
    Relay,
    config::terms::{PerSecond, Terms},
};

/// What a request wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Document,
    Page,
    /// A line of text, for who says nothing.
    Line,
}

impl Wanted {
    /// Reads an `Accept` header (RFC 9110, 12.5.1): of what we have, the one with the highest weight; the
    /// document first among equals.
    pub fn by(accept: &str) -> Wanted {
        let weighed = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let wanted = match parts.next()?.to_ascii_lowercase().as_str() {
                "application/nostr+json" => Wanted::Document,
                "text/html" => Wanted::Page,
                _ => return None,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            Some((wanted, weight.unwrap_or(1.0)))
        });
        let best = weighed.filter(|(_, weight)| *weight > 0.0).max_by(|a, b| {
            a.1.total_cmp(&b.1).then((a.0 == Wanted::Document).cmp(&(b.0 == Wanted::Document)))
        });
        best.map_or(Wanted::Line, |(wanted, _)| wanted)
    }
}

/// The NIPs that are on, as far as they ask something of a relay.
fn supported_nips(relay: &Relay) -> Vec<u16> {
    let mut nips =
        vec![1, 2, 4, 9, 11, 13, 17, 40, 42, 45, 50, 51, 59, 62, 65, 67, 70, 77, 86, 91, 98];
    let terms = relay.terms();
    let has_admins = !terms.access.owners.is_empty() || !terms.access.admins.is_empty();
    nips.retain(|nip| match nip {
        13 => terms.limits.pow_min > 0,
        86 | 98 => has_admins,
        50 => relay.searcher.is_some(),
        _ => true,
    });
    nips
}

/// The document as JSON.
pub fn document(relay: &Relay) -> Value {
    let terms = relay.terms();
    let (about, limits) = (&terms.about, &terms.limits);
    let mut document = json!({
        "name": about.name,
        "description": about.description,
        "self": relay.identity.public_key().to_string(),
        "supported_nips": supported_nips(relay),
        "software": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "limitation": {
            "max_message_length": limits.message_bytes_max,
            "max_content_length": limits.content_chars_max(),
            "max_event_tags": limits.event_tags_max,
            "max_subscriptions": limits.subscriptions_max,
            "max_filters": limits.filters_max,
            "max_subid_length": 64,
            "max_limit": limits.limit_max,
            "default_limit": limits.limit_default,
            "created_at_upper_limit": limits.future_seconds_max,
            "min_pow_difficulty": limits.pow_min,
            "auth_required": false,
            "payment_required": false,
            "restricted_writes": terms.access.restricts_writes(),
            // Beyond the NIP, named as its own are. Null: no limit.
            "max_filter_values": limits.filter_values_max,
            "max_negentropy_items": limits.neg_items_max,
            "max_connections": limits.connections_max,
            "max_connections_per_ip": limits.ip_connections_max,
            "max_events_per_second_per_ip": terms.rates.ip_events,
            "max_requests_per_second_per_ip": terms.rates.ip_requests,
            "max_events_per_second_per_pubkey": terms.rates.key_events,
            "max_requests_per_second_per_pubkey": terms.rates.key_requests,
            "max_message_bytes_per_receiver": terms.messages.bytes_per_key_max,
            "query_slice_ms": limits.query_slice.as_millis() as u64,
        },
    });
    if let Some(seconds) = limits.past_seconds_max {
        document["limitation"]["created_at_lower_limit"] = json!(seconds);
    }
    if relay.config.cache.is_none() || relay.revival.layer2.is_some() {
        document["retention"] = retention(&terms);
    }
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            document[name] = json!(value);
        }
    };
    add("contact", about.contact.clone());
    add("pubkey", about.operator.map(|key| key.to_string()));
    add("icon", about.icon.clone());
    add("posting_policy", about.posting_policy.clone());
    document
}

/// For ever, but for messages if they are swept away.
fn retention(terms: &Terms) -> Value {
    let for_ever = json!({ "time": Value::Null });
    match terms.messages.days_max {
        Some(days) => {
            json!([{ "kinds": terms.guarded_kinds, "time": days.saturating_mul(86_400) }, for_ever])
        }
        None => json!([for_ever]),
    }
}

/// For who does not say what they want.
pub fn line(relay: &Relay) -> String {
    format!("{}: a nostr relay. Open it with a nostr client.\n", relay.terms().about.name)
}

/// The page.
pub fn page(relay: &Relay) -> String {
    let terms = relay.terms();
    let (about, limits) = (&terms.about, &terms.limits);
    let nips: Vec<String> = supported_nips(relay).iter().map(u16::to_string).collect();
    let rows = [
        ("Bytes of one event", limits.event_bytes_max.to_string()),
        ("Tags of one event", limits.event_tags_max.to_string()),
        ("Seconds that its date may lie ahead", limits.future_seconds_max.to_string()),
        (
            "Seconds that it may lie back",
            limits.past_seconds_max.map_or("any".into(), |max| max.to_string()),
        ),
        ("Events a second by one author", rate(terms.rates.key_events)),
        ("The same from one address", rate(terms.rates.ip_events)),
        ("Questions a second from one address", rate(terms.rates.ip_requests)),
        ("Bits of work that it needs", limits.pow_min.to_string()),
        ("Bytes of one message", limits.message_bytes_max.to_string()),
        ("Subscriptions of one connection", limits.subscriptions_max.to_string()),
        ("Filters of one subscription", limits.filters_max.to_string()),
        ("Values in these filters", limits.filter_values_max.to_string()),
        ("Stored events for one filter", limits.limit_max.to_string()),
        ("The same without a limit", limits.limit_default.to_string()),
    ];
    let shared = relay.revival.layer2.as_ref().map(|layer2| layer2.name());
    let others = relay.peers.members.borrow().clone();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (about.name) }
                @if let Some(icon) = &about.icon { link rel="icon" href=(icon); }
                style { (STYLE) }
            }
            body {
                h1 { (about.name) }
                p { (about.description) }
                p { "This is a nostr relay. Add " code { (relay.url) } " to a nostr client." }
                @if let Some(shared) = shared {
                    p { "It shares its events with the other relays of " code { (shared) } "." }
                }
                @if !others.is_empty() {
                    p { "The other relays of its cluster:" }
                    ul { @for member in others.values() { li { code { (member.url) } } } }
                }
                table {
                    tr { th { "Relay's key" } td { code { (relay.identity.npub()) } } }
                    @if let Some(contact) = &about.contact {
                        tr { th { "Contact" } td { (contact) } }
                    }
                    @if let Some(policy) = &about.posting_policy {
                        tr { th { "Posting policy" } td { a href=(policy) { (policy) } } }
                    }
                    tr { th { "NIPs" } td { (nips.join(", ")) } }
                    @for (name, value) in rows {
                        tr { th { (name) } td { (value) } }
                    }
                }
                p { (env!("CARGO_PKG_NAME")) " " (env!("CARGO_PKG_VERSION")) }
            }
        }
    };
    page.into_string()
}

fn rate(rate: PerSecond) -> String {
    rate.map_or("any".into(), |rate| rate.to_string())
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44em;margin:2em auto;padding:0 1em}\
    th{text-align:left;font-weight:normal;padding-right:2em;vertical-align:top}\
    code{overflow-wrap:anywhere}";

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, expected: Wanted) {
        assert_eq!(Wanted::by(accept), expected, "{accept:?}");
    }

    #[test]
    fn what_is_wanted_most_is_given() {
        check("", Wanted::Line);
        check("*/*", Wanted::Line);
        check("application/nostr+json", Wanted::Document);
        check("application/json, Application/Nostr+JSON;q=0.5", Wanted::Document);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Wanted::Page);
        check("text/html, application/nostr+json", Wanted::Document);
        check("application/nostr+json, text/html", Wanted::Document);
        check("text/html, application/nostr+json;q=0.5", Wanted::Page);
        check("application/nostr+json; q=0, text/html; q=0.1", Wanted::Page);
        check("application/nostr+json;q=0", Wanted::Line);
    }
}
