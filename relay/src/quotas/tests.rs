//! The books beside a naive sum, through every way that a message comes and goes.

use arc_swap::ArcSwap;
use event::{Kind, PublicKey, Verified, twin::Author};
use proptest::{collection::vec, prelude::*};
use store::{Options, Origin, Outcome};

use super::*;
use crate::config::terms::TermSettings;

/// What happens to messages to the author with this number.
#[derive(Clone, Debug)]
enum Step {
    /// A client brings one.
    Taken(u8),
    /// A client brings one, and it is not stored.
    GivenUp(u8),
    /// A client goes when it has brought one, so nobody says where it was stored.
    Forgotten(u8),
    /// Another relay has brought one.
    Brought(u8),
    /// The first that there is goes.
    Deleted,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let to = 1..4u8;
    let step = prop_oneof![
        4 => to.clone().prop_map(Step::Taken),
        1 => to.clone().prop_map(Step::GivenUp),
        1 => to.clone().prop_map(Step::Forgotten),
        2 => to.prop_map(Step::Brought),
        1 => Just(Step::Deleted),
    ];
    vec(step, 1..40)
}

struct Scene {
    store: Store,
    writer: Writer,
    quotas: Arc<Quotas>,
    held: Vec<(PublicKey, Verified)>,
    sent: u64,
    has_deleted: bool,
}

impl Scene {
    fn next(&mut self, to: u8) -> (Verified, Message) {
        self.sent += 1;
        let key = Author::new(to).pubkey();
        let content = "x".repeat(self.sent as usize % 7 * 100);
        let tags: [&[&str]; 1] = [&["p", &key.to_string()]];
        let event = Author::new(9).sign(self.sent, 4, &tags, &content);
        let message = Message::of_event(&event, &[Kind(4)]).unwrap();
        (event, message)
    }

    async fn put(&mut self, event: Verified, origin: Origin) -> Seq {
        let Outcome::Saved(seq) = self.writer.put(event.clone(), origin).await.unwrap() else {
            panic!("{event:?} is new")
        };
        let to = event.tags[0].value().unwrap().parse().unwrap();
        self.held.push((to, event));
        seq
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Taken(to) => {
                let (event, message) = self.next(*to);
                let room = self.quotas.admit(&message).await.unwrap();
                let seq = self.put(event, Origin::Client).await;
                room.take(seq);
            }
            Step::GivenUp(to) => {
                let (_, message) = self.next(*to);
                drop(self.quotas.admit(&message).await.unwrap());
            }
            Step::Forgotten(to) => {
                let (event, message) = self.next(*to);
                let room = self.quotas.admit(&message).await.unwrap();
                self.put(event, Origin::Client).await;
                drop(room);
            }
            Step::Brought(to) => {
                let event = self.next(*to).0;
                self.put(event, Origin::Layer2).await;
            }
            Step::Deleted if !self.held.is_empty() => {
                self.has_deleted = true;
                let (_, event) = self.held.remove(0);
                self.writer.delete(vec![event.id]).await.unwrap();
            }
            Step::Deleted => {}
        }
    }

    /// The books say what there is, and after something went no less.
    fn check(&self) {
        self.quotas.catch_up(&self.store, self.store.next_seq());
        for to in 1..4 {
            let key = Author::new(to).pubkey();
            let theirs = self.held.iter().filter(|(to, _)| *to == key);
            let naive: u64 = theirs.map(|(_, event)| event.pack().len() as u64).sum();
            let mut books = self.quotas.books();
            assert!(!books.has_reserved());
            match books.held(Some(key)) {
                Some(held) if self.has_deleted => assert!(held >= naive, "{held} {naive}"),
                Some(held) => assert_eq!(held, naive),
                None => {}
            }
        }
    }
}

async fn tell(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(folder.path(), Options::default()).unwrap();
    let terms = TermSettings::default().resolve().unwrap();
    let in_force: InForce = Arc::new(ArcSwap::from_pointee(terms));
    let (deliveries, _scribe) = Deliveries::open(folder.path(), None, in_force.clone());
    let parts = Parts {
        in_force: in_force.clone(),
        reads: Reads::new(store.clone(), in_force),
        writer: writer.clone(),
        removals: Removals::nowhere(),
        deliveries,
        metrics: Arc::default(),
    };
    let quotas = Arc::new(Quotas::new(&store, parts));
    let (held, sent, has_deleted) = (Vec::new(), 0, false);
    let mut scene = Scene { store, writer, quotas, held, sent, has_deleted };
    for (number, step) in steps.iter().enumerate() {
        scene.take(step).await;
        // Now and then the books have much to catch up with.
        if number % 3 == 0 {
            scene.check();
        }
    }
    scene.check();
    scene.writer.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_books_never_say_less_than_there_is(steps in steps()) {
        tokio::runtime::Runtime::new().unwrap().block_on(tell(&steps));
    }
}
