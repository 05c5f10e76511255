//! Clients that do their worst, and one that behaves and is served all the while.
//!
//! Each test is one way to be a bad neighbour, against a relay of its own. Meanwhile the good client
//! publishes, and asks for what it published. Nobody else's trouble may become its own; the relay's
//! memory stays within bounds; and when the bad ones are gone, nothing of them is left in the metrics.
//!
//! What came out is printed. `TEST_SECONDS` says how long each goes on, `TEST_LATENCY_MS` how long 99 of
//! 100 answers may take at most: on a machine that does nothing else,
//! `TEST_SECONDS=10 TEST_LATENCY_MS=20 cargo test --release --workspace --test e2e hostile -- --test-threads 1`.

mod raw;
mod siege;

use std::time::Duration;

use event::twin::Author;
use futures_util::{SinkExt, StreamExt};
use rand::{Rng, RngCore, rng, seq::IndexedRandom};
use raw::{BINARY, CONTINUATION, Raw, TEXT};
use serde_json::{Value, json};
use siege::Siege;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;

/// The limits that a relay has by default.
const SUBSCRIPTIONS_MAX: usize = 64;
const MESSAGE_BYTES_MAX: usize = 1 << 20;

type Heard = Result<Message, tokio_tungstenite::tungstenite::Error>;

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_socket_is_nobody_elses_trouble() {
    let siege = Siege::begin("garbage").await;
    siege
        .attack(16, async |_| {
            let mut raw = Raw::open(&siege.relay).await;
            let (mut noise, text) = (vec![0; 4_096], scrambled());
            rng().fill_bytes(&mut noise);
            match rng().random_range(0..4) {
                0 => raw.write(&noise).await,
                1 => raw.say(BINARY, &noise).await,
                2 => raw.say(TEXT, &noise).await,
                _ => raw.say(TEXT, text.as_bytes()).await,
            }
            raw.read_some().await;
        })
        .await;
    siege.end().await;
}

/// A frame as clients send it, with something wrong.
fn scrambled() -> String {
    const WORDS: &str = concat!(
        r#"[ ] { } , : " "REQ" "EVENT" "a" {"ids": {"id":" ["NEG-OPEN", {"kinds":[1]} null "#,
        r#"-1 1e999 \u0000 \ud800 😀"#,
    );
    let words: Vec<&str> = WORDS.split(' ').collect();
    (0..rng().random_range(1..40)).map(|_| *words.choose(&mut rng()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_begun_and_never_finished_hold_nobody_up() {
    let siege = Siege::begin("half messages").await;
    let held = siege.hold(300, async |_| {
        let mut raw = Raw::open(&siege.relay).await;
        // As large as allowed, and most of it never comes.
        raw.begin(TEXT, MESSAGE_BYTES_MAX as u64, true).await;
        raw.write(&[b'['; 32 << 10]).await;
        raw
    });
    let held = held.await;
    siege.wait().await;
    drop(held);
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_grows_too_large_is_cut_off_whatever_its_frames_say() {
    let siege = Siege::begin("too large").await;
    siege
        .attack(8, async |turn| {
            let mut raw = Raw::open(&siege.relay).await;
            if turn % 2 == 0 {
                // A gigabyte, says its header.
                raw.begin(TEXT, 1 << 30, true).await;
                raw.expect_cut_off().await;
            } else {
                // A little in each of many frames, none of them the last.
                let part = vec![b' '; 64 << 10];
                raw.begin(TEXT, part.len() as u64, false).await;
                raw.write(&part).await;
                for _ in 0..MESSAGE_BYTES_MAX / part.len() {
                    raw.begin(CONTINUATION, part.len() as u64, false).await;
                    raw.write(&part).await;
                }
                raw.expect_cut_off().await;
            }
        })
        .await;
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_subscriptions_those_beyond_the_limit_are_refused() {
    let siege = Siege::begin("subscriptions").await;
    let (count, connections) = (10_000, 60);
    // It asks on, and reads at the same time.
    let (mut sink, mut stream) = siege.connect().await.split();
    let asking = async {
        for name in 0..count {
            let frame = json!(["REQ", name.to_string(), {"kinds": [1_000 + name % 50]}]);
            sink.send(Message::text(frame.to_string())).await.unwrap();
        }
    };
    let (refused, ()) = tokio::join!(refused_of(count, &mut stream), asking);
    assert_eq!(refused, count - SUBSCRIPTIONS_MAX);
    let many = siege.hold(connections, async |_| {
        let mut socket = siege.connect().await;
        for name in 0..2 * SUBSCRIPTIONS_MAX {
            let frame = json!(["REQ", name.to_string(), {"kinds": [7]}]);
            socket.send(Message::text(frame.to_string())).await.unwrap();
        }
        let refused = refused_of(2 * SUBSCRIPTIONS_MAX, &mut socket).await;
        assert_eq!(refused, SUBSCRIPTIONS_MAX);
        socket
    });
    let many = many.await;
    let open = siege.metrics().await.value("aquifer_subscriptions");
    // The good client has one now and then, and its last may not have gone.
    let expected = (SUBSCRIPTIONS_MAX * (connections + 1)) as f64;
    assert!((expected..=expected + 2.0).contains(&open), "{open} are open");
    siege.wait().await;
    drop((sink, stream, many));
    siege.end().await;
}

/// How many of so many questions are refused.
async fn refused_of(count: usize, stream: &mut (impl StreamExt<Item = Heard> + Unpin)) -> usize {
    let (mut eoses, mut refused) = (0, 0);
    while eoses + refused < count {
        match stream.next().await.expect("the relay is there").unwrap() {
            Message::Text(text) if text.starts_with("[\"EOSE\"") => eoses += 1,
            Message::Text(text) => {
                assert!(text.contains("rate-limited: "), "{text}");
                refused += 1;
            }
            _ => {}
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_its_headers_byte_by_byte_holds_nobody_up() {
    let siege = Siege::begin("slow headers").await;
    siege
        .attack(200, async |_| {
            let mut raw = Raw::dial(&siege.relay).await;
            for byte in Raw::handshake(&siege.relay).as_bytes().chunks(1).take(20) {
                raw.write(byte).await;
                sleep(Duration::from_millis(25)).await;
            }
        })
        .await;
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_its_answers_costs_no_more_than_a_queue() {
    const LARGE: u64 = 200;
    let siege = Siege::begin("never reads").await;
    let mut publisher = siege.connect().await;
    let large = "x".repeat(100 << 10);
    for number in 0..LARGE {
        let note = Author::new(9).sign(1_000 + number, 1, &[], &large);
        publisher.send(Message::text(format!("[\"EVENT\",{}]", note.to_json()))).await.unwrap();
        assert!(siege::answer(&mut publisher).await.contains(",true,"));
    }
    drop(publisher);
    let held = siege.hold(24, async |_| {
        let mut raw = Raw::open(&siege.relay).await;
        for name in 0..SUBSCRIPTIONS_MAX {
            let frame = json!(["REQ", name.to_string(), {"limit": 5_000}]).to_string();
            raw.say(TEXT, frame.as_bytes()).await;
        }
        raw
    });
    let held = held.await;
    // Live events are due for them as well.
    siege.wait().await;
    drop(held);
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_events_waits_in_the_sockets_and_not_in_memory() {
    let siege = Siege::begin("large events").await;
    let note = Author::new(9).sign(1_000, 1, &[], &"x".repeat(120 << 10));
    let forged = note.to_json().replace("xxx", "yyy");
    let frame = format!("[\"EVENT\",{forged}]");
    siege
        .attack(32, async |_| {
            let mut raw = Raw::open(&siege.relay).await;
            for _ in 0..300 {
                raw.say(TEXT, frame.as_bytes()).await;
            }
            raw.read_some().await;
        })
        .await;
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_connections_passes() {
    let siege = Siege::begin("connections").await;
    siege
        .attack(16, async |turn| match turn % 3 {
            0 => drop(Raw::dial(&siege.relay).await),
            1 => {
                let mut raw = Raw::dial(&siege.relay).await;
                raw.write(Raw::handshake(&siege.relay).as_bytes()).await;
            }
            _ => {
                let mut raw = Raw::open(&siege.relay).await;
                raw.say(TEXT, b"[\"REQ\",\"a\",{}]").await;
            }
        })
        .await;
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deeply_nested_json_is_refused_and_no_stack_overflows() {
    let siege = Siege::begin("nested").await;
    let depth = 400_000;
    let (arrays, objects) = ("[".repeat(depth), "{\"a\":".repeat(depth / 5));
    let closed = format!("{arrays}{}", "]".repeat(depth));
    let frames = [
        arrays.clone(),
        closed.clone(),
        objects.clone(),
        format!("[\"REQ\",\"a\",{arrays}"),
        format!("[\"REQ\",\"a\",{closed}]"),
        format!("[\"REQ\",\"a\",{{\"ids\":{closed}}}]"),
        format!("[\"REQ\",\"a\",{{\"x\":{closed}}}]"),
        format!("[\"EVENT\",{{\"tags\":{closed}}}]"),
        format!("[\"EVENT\",{{\"x\":{closed},\"id\":\"{}\"}}]", "ab".repeat(32)),
        format!("[\"EVENT\",{objects}1{}]", "}".repeat(depth / 5)),
        format!("[\"AUTH\",{{\"content\":{closed}}}]"),
        format!("[\"NEG-OPEN\",\"a\",{closed},\"61\"]"),
    ];
    siege
        .attack(4, async |turn| {
            let mut socket = siege.connect().await;
            let frame = &frames[turn % frames.len()];
            socket.send(Message::text(frame.as_str())).await.unwrap();
            let answer = siege::answer(&mut socket).await;
            let is_refusal = ["\"NOTICE\"", "\"CLOSED\"", "\"OK\"", "\"NEG-ERR\""];
            assert!(is_refusal.iter().any(|verb| answer[1..].starts_with(verb)), "{answer}");
        })
        .await;
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_the_largest_size_hold_nobody_up() {
    let siege = Siege::begin("large filters").await;
    siege
        .attack(4, async |turn| {
            let mut socket = siege.connect().await;
            let value = |_| json!(hex(&rng().random::<[u8; 32]>()));
            let field = ["ids", "authors", "#e", "#t", "&t"][turn % 5];
            let filter = || json!({field: (0..370).map(value).collect::<Vec<Value>>()});
            let verb = ["REQ", "COUNT"][turn / 5 % 2];
            let mut frame = vec![json!(verb), json!("large")];
            frame.extend((0..32).map(|_| filter()));
            socket.send(Message::text(Value::Array(frame).to_string())).await.unwrap();
            let heard = siege::answer(&mut socket).await;
            assert!(heard.starts_with("[\"EOSE\"") || heard.starts_with("[\"COUNT\""), "{heard}");
        })
        .await;
    siege.end().await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
