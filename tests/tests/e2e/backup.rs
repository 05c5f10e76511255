//! A whole canister saved to a file, and the file put back into a new one, with `aquifer l2`.

use std::process::Output;

use crate::{
    events::{Events, jsonl, left_of, notes, real_events_and_a_life},
    world::World,
};

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(err));
    String::from_utf8(out.clone()).unwrap()
}

/// The line with the fingerprint, of a comparison that found no difference.
fn equal(output: &Output) -> String {
    let said = said(output);
    assert!(said.contains("the store holds the same"), "{said}");
    said.lines().next().unwrap().to_owned()
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
    let fingerprints = [
        equal(&of_first.l2(&first, &["compare", "-"], file()).await),
        equal(&of_second.l2(&second, &["compare", "-"], file()).await),
    ];
    assert_eq!(fingerprints[0], fingerprints[1]);

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
    let behind = relay.l2(&world, &["compare", "-"], backup.clone().into_bytes()).await;
    assert_eq!(behind.status.code(), Some(1));
    let told = String::from_utf8_lossy(&behind.stdout).into_owned();
    assert!(told.contains("only in the store: 10"), "{told}");
    assert!(events[20..].iter().any(|event| told.contains(&event.id.to_string())), "{told}");

    backup += &said(&relay.l2(&world, &["export", "--from", "20"], Vec::new()).await);
    assert_eq!(backup, jsonl(&events), "in the order of arrival");
    equal(&relay.l2(&world, &["compare", "-"], backup.into_bytes()).await);
    world.end([relay]).await;
}
