//! What a store looks at in an event before it stores it, for those of our stores that run on machines:
//! the limits are the canister's defaults, and no relay is trusted with an id or a signature.

use event::{Event, Packed, Timestamp, Verified, packed, verify};
use index::CREATED_AT_MAX;
use interface::{SAVE_EVENTS_MAX, SaveOutcome, TOO_FAR_AHEAD};

use crate::Layer2Error;

/// As it was sent.
const EVENT_BYTES_MAX: usize = 131_072;
const TAGS_MAX: usize = 5_000;
/// How far ahead `created_at` may be.
const FUTURE_SECONDS_MAX: u64 = 900;
/// Of a reason: it may quote what its sender wrote.
const REASON_BYTES_MAX: usize = 200;

/// The event that these bytes are, or what is answered for it.
pub type Arrived = Result<Verified, SaveOutcome>;

/// Reads and checks all of these, where that holds nobody up: a signature takes a core some 40 µs.
pub async fn check_all(events: &[Vec<u8>], now: Timestamp) -> Result<Vec<Arrived>, Layer2Error> {
    if events.len() > SAVE_EVENTS_MAX {
        return Err(Layer2Error::TooLarge(format!("{} events in one call", events.len())));
    }
    let events = events.to_vec();
    let check = move || events.iter().map(|bytes| check(bytes, now)).collect();
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|error| Layer2Error::Unavailable(error.to_string()))
}

/// Puts the outcomes of those that were sound in the places of all.
pub fn in_order(
    refused: Vec<Option<SaveOutcome>>,
    stored: impl IntoIterator<Item = SaveOutcome>,
) -> Vec<SaveOutcome> {
    let mut stored = stored.into_iter();
    let outcome = |refused: Option<SaveOutcome>| {
        refused.unwrap_or_else(|| stored.next().expect("what is sound has an outcome"))
    };
    refused.into_iter().map(outcome).collect()
}

/// Parts what is to be stored from what is already answered for.
pub fn part(arrived: Vec<Arrived>) -> (Vec<Option<SaveOutcome>>, Vec<Verified>) {
    let mut sound = Vec::with_capacity(arrived.len());
    let refused = arrived.into_iter().map(|arrived| arrived.map(|event| sound.push(event)).err());
    (refused.collect(), sound)
}

fn check(bytes: &[u8], now: Timestamp) -> Arrived {
    let event = decode(bytes, now)?;
    verify(event).map_err(invalid)
}

fn decode(bytes: &[u8], now: Timestamp) -> Result<Event, SaveOutcome> {
    if bytes.len() > EVENT_BYTES_MAX {
        return Err(SaveOutcome::TooLarge(EVENT_BYTES_MAX as u64));
    }
    let event = match bytes.first() {
        Some(b'{') => Event::from_json(bytes).map_err(invalid)?,
        Some(&packed::VERSION) => Packed::parse(bytes).map_err(invalid)?.unpack(),
        _ => return Err(invalid("neither JSON nor a packed event")),
    };
    if event.tags.len() > TAGS_MAX {
        return Err(invalid(format!("more than {TAGS_MAX} tags")));
    }
    let latest = now.0.saturating_add(FUTURE_SECONDS_MAX).min(CREATED_AT_MAX.0);
    if event.created_at.0 > latest {
        return Err(invalid(TOO_FAR_AHEAD));
    }
    Ok(event)
}

fn invalid(reason: impl ToString) -> SaveOutcome {
    SaveOutcome::Invalid(cut(&reason.to_string()).to_owned())
}

/// The start of a text that others wrote.
pub fn cut(text: &str) -> &str {
    let end = text.floor_char_boundary(REASON_BYTES_MAX);
    &text[..end]
}

/// What the log says of an event that was taken out by hand.
pub fn reason(why: &str) -> &str {
    match cut(why) {
        "" => "removed by the operator",
        why => why,
    }
}
