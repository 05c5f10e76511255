//! Lists that clients keep on relays: whom they follow (NIP-02), what they gather (NIP-51), where they are to
//! be found (NIP-65). To a relay they are events that replace each other, from anybody.

use anyhow::Result;
use event::Event;
use serde_json::json;

use super::{
    Relay,
    author::{digits, now, word},
    cases,
};

cases! {
    "nip02" needs [1]:
        a_follow_list_replaces_the_one_before,
        a_follow_list_of_a_thousand_is_taken,
        followers_are_found_by_whom_they_follow;
    "nip51" needs [1]:
        a_list_replaces_the_one_before,
        sets_replace_each_other_by_their_d_tag;
    "nip65" needs [1]:
        a_relay_list_replaces_the_one_before,
        a_relay_list_and_a_profile_are_taken_from_anybody,
        relay_lists_are_found_by_their_relays;
}

/// The second list is what is left of the two.
async fn second_stays(relay: &Relay, kind: u16, tags: [&[&[&str]]; 2]) -> Result<()> {
    let author = relay.author();
    let lists = [author.sign(now() - 9, kind, tags[0], ""), author.sign(now(), kind, tags[1], "")];
    let mut client = relay.client().await?;
    client.put(&[&lists[0], &lists[1]]).await?;
    let filter = json!({"kinds": [kind], "authors": [author.pubkey()]});
    client.finds(&[filter], &[&lists[1]]).await
}

async fn a_follow_list_replaces_the_one_before(relay: &Relay) -> Result<()> {
    let [ann, bob] = [digits(), digits()];
    second_stays(relay, 3, [&[&["p", &ann], &["p", &bob]], &[&["p", &ann]]]).await
}

async fn a_follow_list_of_a_thousand_is_taken(relay: &Relay) -> Result<()> {
    let keys: Vec<String> = (0..1_000).map(|_| digits()).collect();
    let tags: Vec<[&str; 2]> = keys.iter().map(|key| ["p", key.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(|tag| tag.as_slice()).collect();
    let list = relay.author().sign(now(), 3, &tags, "");
    let mut client = relay.client().await?;
    client.put(&[&list]).await?;
    client.finds(&[json!({"kinds": [3], "#p": [keys[999]]})], &[&list]).await
}

async fn followers_are_found_by_whom_they_follow(relay: &Relay) -> Result<()> {
    let followed = digits();
    let [ann, bob] = relay.authors();
    let follow = |tags: &[&[&str]]| [&ann, &bob].map(|author| author.sign(now(), 3, tags, ""));
    let lists: [Event; 2] = follow(&[&["p", &followed, "wss://relay.example", "somebody"]]);
    let mut client = relay.client().await?;
    client.put(&[&lists[0], &lists[1]]).await?;
    client.finds_all(&[json!({"kinds": [3], "#p": [followed]})], &[&lists[0], &lists[1]]).await
}

async fn a_list_replaces_the_one_before(relay: &Relay) -> Result<()> {
    for kind in [10_000, 10_003, 10_050] {
        second_stays(relay, kind, [&[&["t", "one"]], &[&["t", "two"]]]).await?;
    }
    Ok(())
}

async fn sets_replace_each_other_by_their_d_tag(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let set = |age: u64, d: &str| author.sign(now() - age, 30_000, &[&["d", d]], &word());
    let (old, new, other) = (set(9, "friends"), set(5, "friends"), set(7, "family"));
    let mut client = relay.client().await?;
    client.put(&[&old, &other, &new]).await?;
    let filter = json!({"kinds": [30_000], "authors": [author.pubkey()]});
    client.finds_all(&[filter], &[&new, &other]).await
}

async fn a_relay_list_replaces_the_one_before(relay: &Relay) -> Result<()> {
    let [one, other]: [&[&str]; 2] =
        [&["r", "wss://one.example"], &["r", "wss://two.example", "read"]];
    second_stays(relay, 10_002, [&[one, other], &[other]]).await
}

async fn a_relay_list_and_a_profile_are_taken_from_anybody(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let list = author.sign(now(), 10_002, &[&["r", "wss://one.example"]], "");
    let profile = author.sign(now(), 0, &[], "{\"name\":\"somebody new\"}");
    let mut client = relay.client().await?;
    client.put(&[&list, &profile]).await?;
    let filter = json!({"kinds": [0, 10_002], "authors": [author.pubkey()]});
    client.finds_all(&[filter], &[&list, &profile]).await
}

async fn relay_lists_are_found_by_their_relays(relay: &Relay) -> Result<()> {
    let url = format!("wss://{}.example/path?query=1", word());
    let list = relay.author().sign(now(), 10_002, &[&["r", &url, "write"]], "");
    let mut client = relay.client().await?;
    client.put(&[&list]).await?;
    client.finds(&[json!({"kinds": [10_002], "#r": [url]})], &[&list]).await
}
