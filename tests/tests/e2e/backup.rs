//! A whole canister saved to a file, and the file put back into a new one, with `aquifer l2`.

use std::{process::Output, time::Instant};

use crate::{
    events::{Events, jsonl, left_of, notes, real_events_and_a_life},
    world::{PATIENCE, World},
};

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(err));
    String::from_utf8(out.clone()).unwrap()
}

/// A comparison that found no difference.
fn equal(output: &Output) {
    assert_eq!(said(output), "both hold the same events\n");
}

fn events_of(lines: &str) -> Events {
    let events = lines.lines().map(|line| event::Event::from_json(line.as_bytes()).unwrap());
    crate::events::by_id(events)
}

#[tokio::test]
async fn a_canister_saved_to_a_file_and_put_back_into_a_new_one_is_the_same() {
    let (first, second) = (World::new().await, World::new().await);
    let (of_first, of_second) = (first.relay().await, second.relay().await);
    let events = real_events_and_a_life();
    first.save(&events).await;
    let expected = left_of(&events);

    let backup = said(&of_first.l2(&first, &["export"], Vec::new()).await);
    assert_eq!(events_of(&backup), expected);
    let file = || backup.clone().into_bytes();
    let summary = said(&of_second.l2(&second, &["import", "-", "--json"], file()).await);
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["saved"], expected.len(), "{summary}");
    assert_eq!(second.canister_holds().await, expected);
    equal(&of_first.l2(&first, &["verify", "-"], file()).await);
    equal(&of_second.l2(&second, &["verify", "-"], file()).await);

    first.end([of_first]).await;
    second.end([of_second]).await;
}

#[tokio::test]
async fn a_backup_is_continued_where_it_ended_and_a_comparison_names_what_is_missing() {
    let world = World::new().await;
    let relay = world.relay().await;
    let events = notes(1, 30, 600);
    world.save(&events[..20]).await;
    let first = relay.l2(&world, &["export"], Vec::new()).await;
    let told = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(told.contains("seq 20 is next"), "{told}");
    let mut backup = said(&first);

    world.save(&events[20..]).await;
    let behind = relay.l2(&world, &["verify", "-"], backup.clone().into_bytes()).await;
    assert_eq!(behind.status.code(), Some(1));
    let told = String::from_utf8_lossy(&behind.stdout).into_owned();
    assert!(told.contains("only in the second: 10"), "{told}");
    assert!(events[20..].iter().any(|event| told.contains(&event.id.to_string())), "{told}");

    backup += &said(&relay.l2(&world, &["export", "--from", "20"], Vec::new()).await);
    assert_eq!(backup, jsonl(&events), "in the order of arrival");
    equal(&relay.l2(&world, &["verify", "-"], backup.into_bytes()).await);
    world.end([relay]).await;
}

#[tokio::test]
async fn a_canister_is_copied_into_another_and_the_copy_goes_on_where_it_ended() {
    let (old, new) = (World::new().await, World::new().await);
    let relay = old.relay().await;
    new.grant(relay.run.options()).await;
    let events = real_events_and_a_life();
    old.save(&events).await;
    let (from, to) = (old.url(), new.url());
    let copy = async || {
        let summary = said(&relay.l2(&old, &["copy", &from, &to, "--json"], Vec::new()).await);
        serde_json::from_str::<serde_json::Value>(&summary).unwrap()
    };

    assert_eq!(copy().await["saved"], left_of(&events).len());
    assert_eq!(new.canister_holds().await, left_of(&events));
    equal(&relay.l2(&old, &["verify", &from, &to], Vec::new()).await);

    let more = notes(7, 30, 600);
    old.save(&more).await;
    let summary = copy().await;
    assert_eq!((&summary["saved"], &summary["duplicate"]), (&30.into(), &0.into()));
    equal(&relay.l2(&old, &["verify", &from, &to], Vec::new()).await);
    old.end([relay]).await;
    new.end([]).await;
}

#[tokio::test]
async fn what_some_authors_signed_is_exported_alone() {
    let world = World::new().await;
    let relay = world.relay().await;
    let (wanted, other) = (notes(1, 20, 100), notes(2, 20, 100));
    world.save(&[&wanted[..], &other].concat()).await;
    let author = wanted[0].pubkey.to_string();
    let exported = said(&relay.l2(&world, &["export", "--author", &author], Vec::new()).await);
    assert_eq!(events_of(&exported), crate::events::by_id(wanted));
    world.end([relay]).await;
}

#[tokio::test]
async fn status_tells_what_a_canister_holds_and_what_this_relay_asked_of_it() {
    let world = World::new().await;
    let relay = world.relay().await;
    let events = notes(1, 20, 100);
    world.save(&events).await;
    let status = async || -> serde_json::Value {
        let status = said(&relay.l2(&world, &["status", "--json"], Vec::new()).await);
        serde_json::from_str(&status).unwrap()
    };
    let started = Instant::now();
    let mut told = status().await;
    while told["used"].is_null() {
        assert!(started.elapsed() < PATIENCE, "the relay notes nothing: {told}");
        told = status().await;
    }
    let status = told;
    assert_eq!(status["events"], 20, "{status}");
    assert!(status["liquid_cycles"].as_f64().unwrap() > 1e9, "{status}");
    assert!(status["used"]["queries"].as_u64().unwrap() > 0, "{status}");
    let for_people = said(&relay.l2(&world, &["status"], Vec::new()).await);
    assert!(for_people.contains("this relay's calls:"), "{for_people}");
    world.end([relay]).await;
}
