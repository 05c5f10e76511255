//! NIP-45: how many events match, and a sketch of how many people.

use anyhow::{Result, bail, ensure};
use event::Event;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Relay,
    author::{Author, digits, now, word},
    cases,
    client::Client,
    not_offered, text_of,
};

const REGISTERS: usize = 256;

cases! {
    "nip45" needs [45]:
        what_matches_is_counted,
        nothing_is_counted_as_zero,
        the_union_is_counted_once,
        a_superseded_version_is_not_counted,
        more_than_a_page_is_counted,
        a_refusal_is_closed_with_its_id,
        a_sketch_of_reactions_has_the_registers_of_the_definition,
        a_sketch_of_followers_has_the_registers_of_the_definition,
        a_sketch_for_an_address_has_the_registers_of_the_definition,
        a_sketch_for_a_word_has_the_registers_of_the_definition,
        a_sketch_counts_each_author_once,
        a_sketch_of_nobody_is_all_zeros;
    "nip45" needs [45, 9]:
        deleted_events_are_not_counted;
}

fn by(author: &Author) -> Value {
    json!({"authors": [author.pubkey()]})
}

async fn what_matches_is_counted(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let notes: Vec<Event> = (0..7).map(|age| author.note(age)).collect();
    let mut client = relay.client().await?;
    client.put_many(&notes).await?;
    client.counts_to(&[by(&author)], 7).await?;
    client.counts_to(&[json!({"authors": [author.pubkey()], "kinds": [7]})], 0).await?;
    client.counts_to(&[json!({"ids": [notes[0].id, notes[3].id, digits()]})], 2).await
}

async fn nothing_is_counted_as_zero(relay: &Relay) -> Result<()> {
    relay.client().await?.counts_to(&[by(&relay.author())], 0).await
}

async fn the_union_is_counted_once(relay: &Relay) -> Result<()> {
    let [ann, bob] = relay.authors();
    let notes = [ann.note(1), ann.note(2), bob.note(3)];
    let mut client = relay.client().await?;
    client.put(&[&notes[0], &notes[1], &notes[2]]).await?;
    let filters = [by(&ann), json!({"ids": [notes[0].id, notes[2].id]}), by(&ann)];
    client.counts_to(&filters, 3).await
}

async fn a_superseded_version_is_not_counted(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let mut client = relay.client().await?;
    for age in [9, 5] {
        client.put(&[&author.sign(now() - age, 0, &[], &format!("{age}"))]).await?;
    }
    client.counts_to(&[by(&author)], 1).await
}

/// A count is of all there are, however many of them a REQ without a limit would be given.
async fn more_than_a_page_is_counted(relay: &Relay) -> Result<()> {
    let page = relay.document.limit("default_limit").or(relay.document.limit("max_limit"));
    let page = page.filter(|page| *page <= 1_000).unwrap_or(500);
    let author = relay.author();
    let at = now() - 1;
    let notes: Vec<Event> = (0..page + 20).map(|age| author.sign(at - age, 1, &[], "")).collect();
    let mut client = relay.client().await?;
    client.put_many(&notes).await?;
    client.counts_to(&[by(&author)], page + 20).await
}

async fn a_refusal_is_closed_with_its_id(relay: &Relay) -> Result<()> {
    match relay.client().await?.counts(&[json!({"kinds": ["one"]})]).await? {
        Err(_) => Ok(()),
        Ok(told) => bail!("expected CLOSED for a malformed filter, came {told}"),
    }
}

async fn deleted_events_are_not_counted(relay: &Relay) -> Result<()> {
    let author = relay.author();
    let (gone, kept) = (author.note(9), author.note(8));
    let mut client = relay.client().await?;
    client.put(&[&gone, &kept]).await?;
    client.counts_to(&[by(&author)], 2).await?;
    let id = gone.id.to_string();
    client.put(&[&author.sign(now(), 5, &[&["e", &id]], "")]).await?;
    client.counts_to(&[json!({"authors": [author.pubkey()], "kinds": [1]})], 1).await
}

/// NIP-45's definition, written out digit by digit: a byte of the key says which register, and the zero
/// bits that follow it say how much.
fn registers<'a>(asked_for: &str, authors: impl IntoIterator<Item = &'a Author>) -> String {
    let is_hex = |text: &&str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let address_key = asked_for.split(':').nth(1).filter(is_hex);
    let base = match Some(asked_for).filter(is_hex).or(address_key) {
        Some(hex) => hex.to_owned(),
        None => hex::encode(Sha256::digest(asked_for)),
    };
    let digit = base.chars().nth(32).and_then(|digit| digit.to_digit(16)).expect("it is hex");
    let offset = digit as usize + 8;
    let mut registers = [0u8; REGISTERS];
    for author in authors {
        let key = hex::decode(author.pubkey()).expect("a key is hex");
        let bits: String = key[offset + 1..].iter().map(|byte| format!("{byte:08b}")).collect();
        let zeros = bits.bytes().take_while(|bit| *bit == b'0').count() as u8;
        let register = &mut registers[usize::from(key[offset])];
        *register = (*register).max(zeros + 1);
    }
    hex::encode(registers)
}

/// So many people publish an event of this kind with this tag, and the sketch fits them.
async fn is_sketched(relay: &Relay, kind: u16, tag: &str, asked_for: &str) -> Result<()> {
    let authors: [Author; 40] = relay.authors();
    let sign = |author: &Author| author.sign(now() - 1, kind, &[&[tag, asked_for]], "+");
    let events: Vec<Event> = authors.iter().map(sign).collect();
    let mut client = relay.client().await?;
    client.put_many(&events).await?;
    let filter = json!({"kinds": [kind], format!("#{tag}"): [asked_for]});
    client.counts_to(std::slice::from_ref(&filter), 40).await?;
    has_sketch(&mut client, &filter, &registers(asked_for, &authors)).await
}

async fn has_sketch(client: &mut Client, filter: &Value, expected: &str) -> Result<()> {
    let Ok(told) = client.counts(std::slice::from_ref(filter)).await? else {
        bail!("expected a count of {filter}, came CLOSED")
    };
    if told["hll"].is_null() {
        return not_offered("counts come without hll");
    }
    let sketch = text_of(&told["hll"]);
    ensure!(sketch.len() == 2 * REGISTERS, "expected 512 hex digits, came {}", sketch.len());
    let differing =
        (0..REGISTERS).find(|place| sketch[2 * place..][..2] != expected[2 * place..][..2]);
    if let Some(place) = differing {
        let register = |sketch: &str| sketch[2 * place..][..2].to_owned();
        bail!("expected {} in register {place}, came {}", register(expected), register(sketch));
    }
    Ok(())
}

async fn a_sketch_of_reactions_has_the_registers_of_the_definition(relay: &Relay) -> Result<()> {
    is_sketched(relay, 7, "e", &digits()).await
}

async fn a_sketch_of_followers_has_the_registers_of_the_definition(relay: &Relay) -> Result<()> {
    is_sketched(relay, 3, "p", &digits()).await
}

async fn a_sketch_for_an_address_has_the_registers_of_the_definition(relay: &Relay) -> Result<()> {
    is_sketched(relay, 7, "a", &format!("30023:{}:{}", digits(), word())).await
}

async fn a_sketch_for_a_word_has_the_registers_of_the_definition(relay: &Relay) -> Result<()> {
    is_sketched(relay, 1, "t", &word()).await
}

async fn a_sketch_counts_each_author_once(relay: &Relay) -> Result<()> {
    let (author, target) = (relay.author(), digits());
    let at = now() - 1;
    let reply = |age: u64| author.sign(at - age, 1, &[&["e", &target]], "");
    let replies: Vec<Event> = (0..5).map(reply).collect();
    let mut client = relay.client().await?;
    client.put_many(&replies).await?;
    let filter = json!({"kinds": [1], "#e": [target]});
    client.counts_to(std::slice::from_ref(&filter), 5).await?;
    has_sketch(&mut client, &filter, &registers(&target, [&author])).await
}

async fn a_sketch_of_nobody_is_all_zeros(relay: &Relay) -> Result<()> {
    let target = digits();
    let filter = json!({"kinds": [7], "#e": [target]});
    has_sketch(&mut relay.client().await?, &filter, &registers(&target, [])).await
}
