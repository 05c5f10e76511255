//! Lists of what matches a filter, for reconciliations (NIP-77): those that are asked for again and again
//! are kept, and brought up to date instead of made anew.
//!
//! A list is exact when it is handed out: what is new since it was made L1 tells by seq, and what was
//! removed or came in quietly by its [`Mark`]. If too much has happened it is made anew.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use event::{EventId, Filter, PublicKey};
use index::{Found, Matcher, Reader, Scan, Take};
use reconcile::{Item, Sorted};
use store::{Mark, ReadError, Seq, Store};

use crate::{
    config::terms::Terms,
    reads::{Deadline, Reads, Turn},
    sight::Sight,
};

/// Lists that are kept.
const LISTS_MAX: usize = 8;
/// Items in all of them, 40 bytes each.
const ITEMS_MAX: usize = 1_000_000;
/// New events that are looked through to bring a list up to date; beyond it a scan is quicker.
const BEHIND_MAX: u64 = 50_000;

/// The lists, that used last first.
#[derive(Default)]
pub struct HotLists(Mutex<Vec<List>>);

/// What makes two lists the same: the question, who asks, and what holds for everybody.
#[derive(Clone)]
struct Asked {
    filter: Filter,
    /// Of who asks, where some of what matches is not for everybody.
    keys: Vec<PublicKey>,
    terms: Arc<Terms>,
}

impl PartialEq for Asked {
    fn eq(&self, other: &Asked) -> bool {
        Arc::ptr_eq(&self.terms, &other.terms)
            && self.filter == other.filter
            && self.keys == other.keys
    }
}

#[derive(Clone)]
struct List {
    asked: Asked,
    items: Arc<Sorted>,
    place: Place,
}

/// How far a list is true.
#[derive(Clone, Copy)]
struct Place {
    mark: Mark,
    horizon: Seq,
}

impl Place {
    /// Where L1 is now. What is read after this may already hold more.
    fn now(store: &Store) -> Place {
        Place { mark: store.mark(), horizon: store.next_seq() }
    }
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum NoList {
    #[error("more than {0} events match")]
    TooMany(usize),
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    #[error("the relay is stopping")]
    Stopping,
}

impl HotLists {
    /// All that matches and that may be shown, if it is no more than `items_max`.
    pub async fn list(
        &self,
        filter: &Filter,
        sight: &Sight,
        reads: &Reads,
        items_max: usize,
    ) -> Result<Arc<Sorted>, NoList> {
        let filters = std::slice::from_ref(filter);
        // The client may authenticate while the list is made; it is kept by the keys shown until now.
        let sight = &sight.as_it_is();
        let keys = if sight.may_hide(filters) { sight.keys() } else { Vec::new() };
        let asked = Asked { filter: filter.clone(), keys, terms: sight.terms() };
        let list = match self.take(&asked) {
            Some(kept) => bring_up_to_date(kept, sight, reads).await?,
            None => None,
        };
        let list = match list {
            Some(list) => list,
            None => make(asked, sight, reads, items_max).await?,
        };
        let items = list.items.clone();
        if items.len() > items_max {
            return Err(NoList::TooMany(items_max));
        }
        self.keep(list);
        Ok(items)
    }

    fn take(&self, asked: &Asked) -> Option<List> {
        // How many of the newest are wanted, and what is hidden as time goes by, nobody can bring up to date.
        let has_messages = !asked.keys.is_empty();
        let fades = has_messages && asked.terms.messages.days_max.is_some();
        if asked.filter.limit.is_some() || fades {
            return None;
        }
        let lists = self.0.lock().expect("nobody panics holding it");
        lists.iter().find(|list| list.asked == *asked).cloned()
    }

    fn keep(&self, list: List) {
        let mut lists = self.0.lock().expect("nobody panics holding it");
        let terms = list.asked.terms.clone();
        lists.retain(|kept| kept.asked != list.asked && Arc::ptr_eq(&kept.asked.terms, &terms));
        lists.insert(0, list);
        lists.truncate(LISTS_MAX);
        let mut items = 0;
        lists.retain(|kept| {
            items += kept.items.len();
            items <= ITEMS_MAX
        });
    }
}

/// The list as it is now. None: it has to be made anew.
async fn bring_up_to_date(
    list: List,
    sight: &Sight,
    reads: &Reads,
) -> Result<Option<List>, NoList> {
    let sight = sight.clone();
    let read = reads.read(Turn::First, move |store, _| {
        let place = Place::now(store);
        let is_far = place.horizon.0 - list.place.horizon.0 > BEHIND_MAX;
        let Some(touched) = store.touched_since(list.place.mark)?.filter(|_| !is_far) else {
            return Ok(None);
        };
        let mut come = held_again(&touched, &list.asked.filter, &sight, store)?;
        let matcher = Matcher::new(&list.asked.filter);
        let mut from = list.place.horizon;
        while from < place.horizon {
            from = store.since(from, place.horizon, |_, event| {
                if matcher.matches(event) && sight.shows(event) {
                    come.push(Item { created_at: event.created_at(), id: event.id() });
                }
                ControlFlow::Continue(())
            })?;
        }
        let touched: HashSet<EventId> = touched.into_iter().collect();
        let items = match touched.is_empty() && come.is_empty() {
            true => list.items,
            false => {
                let gone = |item: &Item| touched.contains(&item.id);
                Arc::new(list.items.changed((!touched.is_empty()).then_some(gone), come))
            }
        };
        Ok(Some(List { items, place, ..list }))
    });
    Ok(read.await.ok_or(NoList::Stopping)??)
}

/// Those of the events that were touched that are held, and belong into the list.
fn held_again(
    touched: &[EventId],
    filter: &Filter,
    sight: &Sight,
    store: &Store,
) -> Result<Vec<Item>, ReadError> {
    if touched.is_empty() {
        return Ok(Vec::new());
    }
    let filters = [Filter { ids: Some(touched.to_vec()), ..Filter::default() }];
    let (matcher, sight) = (Matcher::new(filter), sight.clone());
    let mut scan = Scan::new(&filters);
    let mut held = Held { items: Vec::new(), matcher, sight };
    store.page(&mut scan, &mut held)?;
    Ok(held.items)
}

struct Held {
    items: Vec<Item>,
    matcher: Matcher,
    sight: Sight,
}

impl Reader for Held {
    fn take(&mut self, found: Found<'_>) -> Take {
        let event = found.event();
        if self.matcher.matches(&event) && self.sight.shows(&event) {
            self.items.push(Item { created_at: event.created_at(), id: event.id() });
        }
        Take::More
    }
}

async fn make(
    asked: Asked,
    sight: &Sight,
    reads: &Reads,
    items_max: usize,
) -> Result<List, NoList> {
    let filters = [asked.filter.clone()];
    let mut scan = sight.over(Scan::new(&filters), &filters);
    let (mut items, mut turn, mut place) = (Vec::new(), Turn::First, None);
    loop {
        let read = reads.read(turn, move |store, deadline| {
            let place = place.unwrap_or_else(|| Place::now(store));
            let mut page = Page { items, deadline };
            let is_done = store.page(&mut scan, &mut page)?;
            Ok((page.items, scan, is_done, place))
        });
        let (listed, left, is_done, from) = read.await.ok_or(NoList::Stopping)??;
        if listed.len() > items_max {
            return Err(NoList::TooMany(items_max));
        }
        if is_done {
            return Ok(List { asked, items: Arc::new(Sorted::new(listed)), place: from });
        }
        (items, scan, turn, place) = (listed, left, Turn::Further, Some(from));
    }
}

/// A list that grows page by page.
struct Page {
    items: Vec<Item>,
    deadline: Deadline,
}

impl Reader for Page {
    fn take(&mut self, found: Found<'_>) -> Take {
        let position = found.position;
        self.items.push(Item { created_at: position.created_at, id: position.id });
        Take::More
    }

    fn may_go_on(&mut self) -> bool {
        !self.deadline.is_over()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use arc_swap::ArcSwap;
    use event::{Timestamp, Verified, twin};
    use proptest::{collection::vec, prelude::*};
    use store::{Options, Origin};

    use super::*;
    use crate::config::terms::TermSettings;

    /// What happens between two lists.
    #[derive(Clone, Debug)]
    enum Step {
        Put(Verified),
        Delete(usize),
        Pass,
    }

    fn steps(arrivals: Vec<Verified>) -> impl Strategy<Value = Vec<Step>> {
        let each = arrivals.into_iter().map(|event| {
            prop_oneof![
                6 => Just(Step::Put(event)),
                1 => (0..40usize).prop_map(Step::Delete),
                1 => Just(Step::Pass),
            ]
        });
        each.collect::<Vec<_>>()
    }

    async fn check(filters: &[Filter], steps: &[Step]) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicU64::new(twin::EXPIRATIONS.start - 3));
        let now = clock.clone();
        let options = Options {
            clock: Arc::new(move || Timestamp(now.load(Ordering::Relaxed))),
            ..Options::default()
        };
        let (store, writer) = Store::open(folder.path(), options).unwrap();
        let terms = TermSettings::default().resolve().unwrap();
        let in_force = Arc::new(ArcSwap::from_pointee(terms));
        let (reads, sight) = (Reads::new(store, in_force.clone()), Sight::new(in_force));
        let (lists, mut put) = (HotLists::default(), Vec::new());
        for step in steps {
            match step {
                Step::Put(event) => {
                    put.push(event.id);
                    writer.put(event.clone(), Origin::Client).await.unwrap();
                }
                Step::Delete(at) => {
                    let id = put.get(*at).copied();
                    writer.delete(id.into_iter().collect()).await.unwrap();
                }
                Step::Pass => {
                    clock.fetch_add(1, Ordering::Relaxed);
                }
            }
            for filter in filters {
                let kept = lists.list(filter, &sight, &reads, usize::MAX).await.unwrap();
                let anew = HotLists::default().list(filter, &sight, &reads, usize::MAX).await;
                assert_eq!(*kept, *anew.unwrap(), "{filter:?} after {step:?}");
            }
        }
        writer.stop().await;
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_list_that_is_kept_is_as_one_that_is_made_anew(
            (filters, steps) in twin::arrivals(20).prop_flat_map(|arrivals| {
                (vec(twin::filter(&arrivals), 3), steps(arrivals))
            })
        ) {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(check(&filters, &steps));
        }
    }

    #[tokio::test]
    async fn what_is_not_for_everybody_is_listed_for_its_people_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(folder.path(), Options::default()).unwrap();
        let terms = TermSettings::default().resolve().unwrap();
        let in_force = Arc::new(ArcSwap::from_pointee(terms));
        let reads = Reads::new(store, in_force.clone());
        let (ann, lists) = (twin::Author::new(1), HotLists::default());
        let message = ann.sign(1_000, 4, &[], "secret");
        writer.put(message, Origin::Client).await.unwrap();
        let (stranger, hers) = (Sight::new(in_force.clone()), Sight::new(in_force.clone()));
        hers.add(ann.pubkey()).unwrap();
        let count = async |sight: &Sight| {
            lists.list(&Filter::default(), sight, &reads, 10).await.unwrap().len()
        };
        for _ in 0..2 {
            assert_eq!((count(&stranger).await, count(&hers).await), (0, 1));
        }
        // A ban makes other lists.
        let mut terms = (**in_force.load()).clone();
        terms.access.banned_keys.insert(ann.pubkey(), String::new());
        in_force.store(Arc::new(terms));
        assert_eq!(count(&hers).await, 0);
        writer.stop().await;
    }
}
