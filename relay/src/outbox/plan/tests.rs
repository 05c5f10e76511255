//! The plan against made-up L2s, in made-up time: what each does to a batch is a function.

use std::collections::BTreeMap;

use super::*;

const EVENTS_MAX: usize = 64;
const BATCHES_MAX: usize = 4;

/// An outbox that a plan works off.
struct Story {
    plan: Plan,
    now: Instant,
    rows: BTreeSet<Seq>,
    poison: BTreeMap<Seq, String>,
    calls: usize,
}

impl Story {
    fn of(rows: u64) -> Story {
        let now = Instant::now();
        let rows = (0..rows).map(Seq).collect();
        let plan = Plan::new(BATCHES_MAX, EVENTS_MAX, now);
        Story { plan, now, rows, poison: BTreeMap::new(), calls: 0 }
    }

    fn publish(&mut self, seq: u64) {
        self.rows.insert(Seq(seq));
    }

    /// All that may start now.
    fn start(&mut self) -> Vec<Batch> {
        let mut started = Vec::new();
        loop {
            self.plan.tend(self.now);
            if let Some(mut batch) = self.plan.next_held(self.now) {
                batch.seqs.retain(|seq| self.rows.contains(seq));
                started.push(batch);
            } else if self.plan.fresh(self.rows.len() as u64, self.now) == Fresh::Now {
                let spared = self.plan.spared();
                let rest = self.rows.iter().filter(|seq| !spared.contains(seq));
                let seqs: Vec<Seq> = rest.copied().take(EVENTS_MAX).collect();
                if seqs.is_empty() {
                    break;
                }
                started.push(self.plan.start(seqs, self.now));
            } else {
                break;
            }
        }
        let under_way = started.iter().flat_map(|batch| &batch.seqs).collect::<BTreeSet<_>>();
        let sent = started.iter().map(|batch| batch.seqs.len()).sum::<usize>();
        assert_eq!(under_way.len(), sent, "nothing is sent twice");
        started
    }

    /// An answer that settles the whole batch.
    fn takes(&mut self, batch: &Batch) -> Ended {
        for seq in &batch.seqs {
            self.rows.remove(seq);
        }
        Ended::Answered { taken: batch.seqs.len(), early: vec![], later: vec![] }
    }

    fn end(&mut self, batch: Batch, ended: Ended) {
        if let Some(Poison { seq, reason }) = self.plan.ended(batch, ended, self.now) {
            self.rows.remove(&seq);
            self.poison.insert(seq, reason);
        }
    }

    /// Lets time pass to where there is something to do, and plays all that starts through an L2.
    fn round(&mut self, fails: &mut impl FnMut(&Batch) -> Option<Layer2Error>) {
        for batch in self.start() {
            self.calls += 1;
            let ended = match fails(&batch) {
                Some(cause) => Ended::Failed(cause),
                None => self.takes(&batch),
            };
            self.end(batch, ended);
        }
        self.now = self.plan.wake_at().unwrap_or(self.now).max(self.now);
    }

    fn play(&mut self, rounds: usize, mut fails: impl FnMut(&Batch) -> Option<Layer2Error>) {
        (0..rounds).for_each(|_| self.round(&mut fails));
    }
}

fn trapped() -> Option<Layer2Error> {
    Some(Layer2Error::Failed("it trapped".into()))
}

fn away() -> Option<Layer2Error> {
    Some(Layer2Error::Unavailable("nobody answers".into()))
}

fn seqs(seqs: &[u64]) -> Vec<Seq> {
    seqs.iter().copied().map(Seq).collect()
}

#[test]
fn a_batch_starts_with_the_first_event_and_others_go_beside_it_when_full_or_after_a_while() {
    let mut story = Story::of(1);
    let first = story.start();
    assert_eq!(first[0].seqs, seqs(&[0]));
    story.publish(1);
    assert!(story.start().is_empty(), "it gathers");
    for seq in 2..=EVENTS_MAX as u64 {
        story.publish(seq);
    }
    let full = story.start();
    assert_eq!(full.len(), 1);
    assert_eq!(full[0].seqs.len(), EVENTS_MAX);
    story.publish(100);
    let Fresh::At(then) = story.plan.fresh(66, story.now) else { panic!("it gathers") };
    story.now = then;
    assert_eq!(story.start()[0].seqs, seqs(&[100]), "the first takes its time");
}

#[test]
fn no_more_batches_are_under_way_than_allowed_and_each_place_is_used_again() {
    let mut story = Story::of(10 * EVENTS_MAX as u64);
    let mut started = story.start();
    assert_eq!(started.len(), BATCHES_MAX);
    assert!(story.start().is_empty());
    // The last is answered first.
    let last = started.pop().unwrap();
    let answer = story.takes(&last);
    story.end(last, answer);
    assert_eq!(story.start().len(), 1);
}

#[test]
fn while_l2_is_away_few_batches_are_tried_and_nothing_is_poison_however_long_that_lasts() {
    let mut story = Story::of(5_000);
    let started = story.now;
    story.play(2_000, |_| away());
    let seconds = (story.now - started).as_secs_f64();
    assert!(seconds > 3_600.0, "{seconds} s");
    // Four batches, with pauses of 15 s at least once it has lasted.
    assert!((story.calls as f64) < 4.0 * seconds / 15.0 + 100.0, "{} in {seconds} s", story.calls);
    assert_eq!((story.rows.len(), &story.poison), (5_000, &BTreeMap::new()));
    story.play(200, |_| None);
    assert!(story.rows.is_empty());
}

#[test]
fn one_event_that_l2_fails_at_is_found_and_all_others_arrive() {
    let mut story = Story::of(1_000);
    let bad = Seq(437);
    for next in 1_000..1_040 {
        // Now and then something else comes, and gets through.
        story.publish(next);
        story.play(1, |batch| batch.seqs.contains(&bad).then(trapped).flatten());
    }
    assert_eq!(story.poison.keys().collect::<Vec<_>>(), [&bad]);
    assert!(story.poison[&bad].contains("it trapped"));
    assert!(story.rows.is_empty(), "{:?}", story.rows);
}

#[test]
fn an_l2_that_fails_at_everything_makes_nothing_poison() {
    let mut story = Story::of(3_000);
    story.play(3_000, |_| trapped());
    assert_eq!((story.rows.len(), &story.poison), (3_000, &BTreeMap::new()));
    // It was mended.
    story.play(200, |_| None);
    assert!(story.rows.is_empty());
}

#[test]
fn a_lone_event_that_l2_fails_at_waits_for_others_to_get_through_and_stops_none() {
    let mut story = Story::of(1);
    let fails = |batch: &Batch| batch.seqs.contains(&Seq(0)).then(trapped).flatten();
    story.play(50, fails);
    assert_eq!(story.poison, BTreeMap::new(), "nothing shows that L2 takes others");
    for seq in 1..=40 {
        story.publish(seq);
        story.play(1, fails);
    }
    assert!(story.poison.contains_key(&Seq(0)));
    assert!(story.rows.is_empty());
}

#[test]
fn what_never_gets_an_answer_is_isolated_and_never_poison() {
    let mut story = Story::of(400);
    let mut fails = |batch: &Batch| batch.seqs.contains(&Seq(5)).then(away).flatten();
    for seq in 400..500 {
        story.publish(seq);
        story.round(&mut fails);
    }
    assert_eq!((story.rows.iter().collect::<Vec<_>>(), story.poison.len()), (vec![&Seq(5)], 0));
    // Then it was the network after all.
    story.play(5, |_| None);
    assert!(story.rows.is_empty());
}

#[test]
fn a_batch_that_is_too_large_is_halved_and_one_event_that_is_goes_aside() {
    let mut story = Story::of(60);
    let large = |batch: &Batch| {
        (batch.seqs.len() > 10 || batch.seqs.contains(&Seq(7)))
            .then(|| Layer2Error::TooLarge("2 MiB".into()))
    };
    story.play(20, large);
    assert_eq!(story.poison.keys().collect::<Vec<_>>(), [&Seq(7)]);
    assert!(story.rows.is_empty());
}

#[test]
fn what_is_too_early_goes_by_itself_until_its_time_has_come() {
    let mut story = Story::of(0);
    let due = story.now + Duration::from_secs(3_000);
    let mut calls = 0;
    for seq in 0..200 {
        story.publish(seq);
        for batch in story.start() {
            calls += 1;
            let early = |seq: &Seq| seq.0.is_multiple_of(50) && story.now < due;
            let (early, rest): (Vec<Seq>, Vec<Seq>) = batch.seqs.iter().partition(|seq| early(seq));
            for seq in &rest {
                story.rows.remove(seq);
            }
            story.end(batch, Ended::Answered { taken: rest.len(), early, later: vec![] });
        }
        story.now += Duration::from_secs(20);
    }
    assert!(story.rows.is_empty(), "{:?}", story.rows);
    assert!(calls < 230, "{calls} calls");
}

#[test]
fn what_l2_had_no_time_for_goes_at_once_and_what_it_refuses_for_now_after_a_pause() {
    let mut story = Story::of(3);
    let batch = story.start().remove(0);
    story.rows.remove(&Seq(0));
    story.end(batch, Ended::Answered { taken: 1, early: vec![], later: seqs(&[1, 2]) });
    let batch = story.start().remove(0);
    assert_eq!(batch.seqs, seqs(&[1, 2]));
    story.end(batch, Ended::Answered { taken: 0, early: vec![], later: seqs(&[1, 2]) });
    assert!(story.start().is_empty());
    story.play(2, |_| None);
    assert!(story.rows.is_empty());
}

#[test]
fn nothing_is_forgotten_by_an_l2_of_any_mood() {
    for seed in 0..50 {
        let mut random: u64 = seed;
        let mut mood = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            random >> 60
        };
        let mut story = Story::of(700);
        story.play(300, |_| match mood() {
            0..8 => away(),
            8..10 => Some(Layer2Error::Refused("who are you".into())),
            10..12 => Some(Layer2Error::TooLarge("2 MiB".into())),
            _ => None,
        });
        story.play(300, |_| None);
        let lone_and_too_large = story.poison.values().all(|reason| reason.contains("too large"));
        assert!(story.rows.is_empty() && lone_and_too_large, "seed {seed}: {:?}", story.rows);
    }
}
