//! The work that is measured: saving in batches of several sizes, and the questions relays ask.

use anyhow::{Result, ensure};
use candid::utils::ArgumentEncoder;
use corpus::Corpus;
use event::PublicKey;
use interface::{
    Answer, ByteBuf, ChangesFrom, ChangesPage, ChangesRequest, Count, EventBytes, Filter,
    QueryPage, QueryRequest, SaveCost,
};

use crate::canister::Canister;

/// Sizes of the batches that are saved at each size of the store.
const BATCHES: [usize; 4] = [1, 10, 100, 1_000];
/// How many events one measurement saves in all.
pub const SAVED: usize = 1_111;
/// How many events a query is to find.
const NEWEST: usize = 500;
const CHANGES: u64 = 1_000;
const IDS: usize = 100;

/// What a caller may say of all events at once, in negentropy: a fingerprint that is not ours, so that
/// the answer divides them; or that it holds none, so that the answer is ids, as many as it has room for.
const RECONCILED: [(&str, &[u8]); 2] = [
    (
        "fingerprints that divide all events",
        &[0x61, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
    ),
    ("an answer full of ids", &[0x61, 0, 0, 2, 0]),
];

/// A figure's name, and the figure.
pub type Figure = (String, u64);

/// All figures of a store that holds the first `held` events of the corpus, or what is left of them.
pub fn measure(canister: &Canister, corpus: &mut Corpus, held: usize) -> Result<Vec<Figure>> {
    let authors = corpus.authors();
    let mut figures = stable_bytes(canister)?;
    figures.extend(questions(canister, &authors, held)?);
    for batch in BATCHES {
        figures.extend(saving(canister, corpus, batch)?);
    }
    Ok(figures)
}

fn stable_bytes(canister: &Canister) -> Result<Vec<Figure>> {
    let status = canister.status()?;
    let used: u64 = status.memories.iter().map(|(_, pages)| pages * 65_536).sum();
    let each = |bytes: u64| bytes / status.events.max(1);
    Ok(vec![
        ("stable bytes in use, for each event held".into(), each(used)),
        ("stable bytes paid for, for each event held".into(), each(status.stable_bytes)),
    ])
}

fn saving(canister: &Canister, corpus: &mut Corpus, batch: usize) -> Result<Vec<Figure>> {
    let events: Vec<_> = corpus.events(batch).collect();
    let total = canister.save(&events)?;
    let count = batch as u64;
    let cost = canister.status()?.last_save.unwrap_or_default();
    let SaveCost { decode, verify, index, log, .. } = cost;
    let named = |part: &str, cost: u64| {
        (format!("save one event of a batch of {batch}: {part}"), cost / count)
    };
    let mut figures = vec![named("verify", verify), named("all else", total - verify)];
    if batch == 100 {
        figures.extend([
            named("decode", decode),
            named("indexes", index),
            named("log", log),
            named("the rest", total - verify - decode - index - log),
        ]);
    }
    Ok(figures)
}

fn questions(canister: &Canister, authors: &[PublicKey], held: usize) -> Result<Vec<Figure>> {
    let all = || Filter { limit: Some(NEWEST as u64), ..Filter::default() };
    let keys = |authors: &[PublicKey]| authors.iter().map(|it| ByteBuf::from(it.0)).collect();
    let mentions = vec![("p".to_owned(), vec![authors[0].to_string()])];
    let filters = [
        ("newest 500 events", all()),
        ("newest 500 of one author", Filter { authors: Some(keys(&authors[..1])), ..all() }),
        ("newest 500 of one kind", Filter { kinds: Some(vec![1]), ..all() }),
        ("newest 500 of one #p", Filter { tags: mentions, ..all() }),
        ("newest 500 of 500 authors", Filter { authors: Some(keys(&authors[..500])), ..all() }),
    ];
    let mut figures = Vec::new();
    for (name, filter) in filters {
        let request = QueryRequest { filters: vec![filter], ..QueryRequest::default() };
        let (page, instructions): (QueryPage, u64) = ask(canister, "query_events", (request,))?;
        ensure!(page.events.len() == NEWEST, "{name}: found {}", page.events.len());
        figures.push((format!("query: {name}"), instructions));
    }
    let everything = (vec![Filter::default()],);
    let (count, instructions): (Count, u64) = ask(canister, "count", everything)?;
    ensure!(count.complete, "not all events could be counted");
    figures.push(("count: all events".into(), instructions));
    for (name, message) in RECONCILED {
        let message = (ByteBuf::from(message), None::<Filter>);
        let (_, instructions): (ByteBuf, u64) = ask(canister, "reconcile", message)?;
        figures.push((format!("reconcile: {name}"), instructions));
    }
    let (page, instructions) = changes(canister, held as u64 / 2)?;
    figures.push((format!("changes: a page of {CHANGES} entries"), instructions));
    figures.push((format!("get: {IDS} events by id"), get(canister, &page)?));
    Ok(figures)
}

fn changes(canister: &Canister, from: u64) -> Result<(ChangesPage, u64)> {
    let request = ChangesRequest {
        from: ChangesFrom::Seq(from),
        max_bytes: None,
        max_entries: Some(CHANGES),
        proof: false,
        ids_only: false,
        encoding: None,
    };
    let (page, instructions): (ChangesPage, u64) = ask(canister, "changes", (request,))?;
    ensure!(page.changes.len() as u64 == CHANGES, "a page of {}", page.changes.len());
    Ok((page, instructions))
}

/// Gets events that a page of changes told of.
fn get(canister: &Canister, page: &ChangesPage) -> Result<u64> {
    let saved = page.changes.iter().filter_map(|change| match &change.what {
        interface::What::Saved(event) => Some(ByteBuf::from(&event[1..33])),
        _ => None,
    });
    let ids: Vec<ByteBuf> = saved.step_by(5).take(IDS).collect();
    let arguments = (ids, None::<interface::Encoding>);
    let (found, instructions): (Vec<Option<EventBytes>>, u64) =
        ask(canister, "get_events", arguments)?;
    let found = found.iter().flatten().count();
    ensure!(found == IDS, "found {found} of {IDS} ids");
    Ok(instructions)
}

fn ask<T>(canister: &Canister, method: &str, arguments: impl ArgumentEncoder) -> Result<(T, u64)>
where
    T: candid::CandidType + serde::de::DeserializeOwned,
{
    let (answer, instructions): (Answer<T, interface::ReadError>, u64) =
        canister.cost_of(method, arguments)?;
    Ok((answer.into_result()?, instructions))
}
