//! Messages, as their relay's operator sees them: whom they are from and for, when, and how many bytes.
//! Never what they say.

use std::collections::HashMap;

use event::{EventId, Filter, PublicKey, Timestamp};
use index::Found;
use layer2::Layer2Error;
use store::Seq;

use super::{
    desk::Desk,
    matching::{Matching, count_matching, progress},
    protocol::{Counted, MessageTotal, MessagesOf, ReceiverUsage, RemovedMessages, Reply},
    replies::Replies,
};
use crate::{
    message::{self, Message},
    removals::{self, Removed, what_to_do},
};

/// Receivers that are told of at a time.
const RECEIVERS_MAX: usize = 1_000;

/// Tells of these messages.
pub async fn list(which: MessagesOf, replies: &mut Replies, desk: &Desk) -> anyhow::Result<()> {
    let mut matching = matching(which, desk.store.next_seq(), desk, |_, message| message);
    while let Some(page) = matching.next().await? {
        replies.send(&Reply::Messages(page)).await?;
    }
    Ok(())
}

/// How many there are, and how many of them are nowhere else.
pub async fn count(
    which: MessagesOf,
    replies: &mut Replies,
    desk: &Desk,
) -> anyhow::Result<Counted> {
    let before = desk.store.next_seq();
    count_matching(matching(which, before, desk, place), replies).await
}

/// Takes them out: of L2 first, which would bring them back.
pub async fn remove(
    which: MessagesOf,
    before: Seq,
    replies: &mut Replies,
    desk: &Desk,
) -> anyhow::Result<RemovedMessages> {
    let mut matching = matching(which, before, desk, place);
    let mut removed = RemovedMessages { here: 0, layer2: None, kept_because: None };
    while let Some(page) = matching.next().await? {
        let ids: Vec<EventId> = page.into_iter().map(|(_, id)| id).collect();
        if removed.kept_because.is_none() {
            remove_from_layer2(&ids, &mut removed, desk).await;
        }
        removed.here += ids.len() as u64;
        desk.writer.delete(ids).await?;
        progress(removed.here, replies).await?;
    }
    if let Some(quotas) = &desk.quotas {
        quotas.count_anew();
    }
    Ok(removed)
}

/// Adds to `removed` what L2 did, or why it did not.
async fn remove_from_layer2(ids: &[EventId], removed: &mut RemovedMessages, desk: &Desk) {
    let Some(layer2) = &desk.layer2 else { return };
    let why = "removed by the relay's operator";
    match removals::remove(layer2.as_ref(), ids, why).await {
        Ok(Removed::Events(events)) => *removed.layer2.get_or_insert(0) += events,
        Ok(Removed::NotAllowed) => removed.kept_because = Some(what_to_do(layer2.as_ref())),
        Err(Layer2Error::Unavailable(cause)) => {
            removed.kept_because = Some(format!("it is away: {cause}"));
        }
        Err(cause) => removed.kept_because = Some(cause.to_string()),
    }
}

/// Tells what messages take. It keeps a line for each receiver in memory.
pub async fn usage(replies: &mut Replies, desk: &Desk) -> anyhow::Result<()> {
    let mut receivers: HashMap<PublicKey, ReceiverUsage> = HashMap::new();
    let (mut messages, mut bytes, mut oldest) = (0, 0, None);
    let mut matching = matching(MessagesOf::All, desk.store.next_seq(), desk, |_, message| message);
    while let Some(page) = matching.next().await? {
        for message in page {
            messages += 1;
            bytes += message.bytes;
            // The newest came first.
            oldest = Some(message.created_at);
            message.to.iter().for_each(|key| add(&mut receivers, *key, &message));
        }
    }
    let mut receivers: Vec<ReceiverUsage> = receivers.into_values().collect();
    receivers.sort_unstable_by_key(|usage| (std::cmp::Reverse(usage.bytes), usage.receiver));
    for page in receivers.chunks(RECEIVERS_MAX) {
        replies.send(&Reply::MessageUsage(page.to_vec())).await?;
    }
    let terms = desk.moderator.in_force().load_full();
    let limits = &terms.messages;
    let total = MessageTotal {
        messages,
        bytes,
        oldest,
        bytes_max: limits.bytes_total_max,
        bytes_per_key_max: limits.bytes_per_key_max,
        days_max: limits.days_max,
    };
    Ok(replies.send(&Reply::MessageTotal(total)).await?)
}

fn add(receivers: &mut HashMap<PublicKey, ReceiverUsage>, key: PublicKey, message: &Message) {
    let none = ReceiverUsage { receiver: key, messages: 0, bytes: 0, oldest: message.created_at };
    let usage = receivers.entry(key).or_insert(none);
    usage.messages += 1;
    usage.bytes += message.bytes;
    usage.oldest = message.created_at;
}

fn place(seq: Seq, message: Message) -> (Seq, EventId) {
    (seq, message.id)
}

/// What `make` makes of these messages.
fn matching<T: Send + 'static>(
    which: MessagesOf,
    before: Seq,
    desk: &Desk,
    make: fn(Seq, Message) -> T,
) -> Matching<T> {
    let guarded = desk.moderator.in_force().load().guarded_kinds.clone();
    let all = message::filter(None, guarded.clone());
    let filter = match which {
        MessagesOf::All => all,
        MessagesOf::To(key) => message::filter(Some(key), guarded.clone()),
        MessagesOf::Ids(ids) => Filter { ids: Some(ids), ..all },
        MessagesOf::Before(Timestamp(date)) => match date.checked_sub(1) {
            Some(until) => Filter { until: Some(Timestamp(until)), ..all },
            None => Filter { limit: Some(0), ..all },
        },
    };
    let make =
        move |found: &Found<'_>| Some(make(found.seq, Message::of(&found.event(), &guarded)?));
    Matching::new(filter, before, desk, make)
}
