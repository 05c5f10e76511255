//! Answers under way. What is stored for one of them is given up last, or it could be gone again before it is
//! read; and whoever answers hears what was given up all the same.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use index::Seq;

/// For how long a hold spares what came after it: a slow client is no reason to give up what others read.
const SPARED_FOR: Duration = Duration::from_secs(10);
/// How many events are remembered that were given up,
const REMEMBERED_MAX: usize = 4_096;
/// and how many bytes of them.
const REMEMBERED_BYTES_MAX: usize = 1 << 20;

/// An event that was given up, as a stub.
pub type Stub = Arc<[u8]>;

/// All answers under way, and what was given up lately.
#[derive(Default)]
pub struct Holds(Mutex<State>);

#[derive(Default)]
struct State {
    /// When each began, and what came from then on; by their numbers, the oldest first.
    under_way: BTreeMap<u64, (Instant, Seq)>,
    begun: u64,
    gone: VecDeque<Stub>,
    gone_bytes: usize,
    /// How many went before the first that is remembered.
    forgotten: u64,
    /// What the transaction gives up that is being committed: a reader may see it do so before anybody here
    /// hears that it has.
    going: Vec<Stub>,
}

impl Holds {
    /// Before the commit of a transaction that gives these up.
    pub fn going(&self, stubs: Vec<Stub>) {
        self.lock().going = stubs;
    }

    /// After it.
    pub fn gone(&self) {
        let mut state = self.lock();
        let going = std::mem::take(&mut state.going);
        if state.under_way.is_empty() {
            // Whoever comes now finds that they are not there.
            state.forgotten += (state.gone.len() + going.len()) as u64;
            (state.gone, state.gone_bytes) = (VecDeque::new(), 0);
            return;
        }
        state.gone_bytes += going.iter().map(|stub| stub.len()).sum::<usize>();
        state.gone.extend(going);
        while state.gone.len() > REMEMBERED_MAX || state.gone_bytes > REMEMBERED_BYTES_MAX {
            let Some(stub) = state.gone.pop_front() else { break };
            state.gone_bytes -= stub.len();
            state.forgotten += 1;
        }
    }

    /// From where on events are to go last, if somebody wants some of them.
    pub fn spared_from(&self) -> Option<Seq> {
        let state = self.lock();
        let mut under_way = state.under_way.values();
        under_way.find(|(began, _)| began.elapsed() < SPARED_FOR).map(|(_, from)| *from)
    }

    fn begin(&self, from: Seq) -> (u64, u64) {
        let mut state = self.lock();
        let number = state.begun;
        state.begun += 1;
        state.under_way.insert(number, (Instant::now(), from));
        (number, state.forgotten + state.gone.len() as u64)
    }

    fn end(&self, number: u64) {
        self.lock().under_way.remove(&number);
    }

    fn since(&self, mark: u64) -> Option<Vec<Stub>> {
        let state = self.lock();
        let skipped = mark.checked_sub(state.forgotten)?;
        Some(state.gone.iter().skip(skipped as usize).chain(&state.going).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics holding it")
    }
}

/// An answer under way, from [`Store::hold`](crate::Store::hold) on until it is dropped.
pub struct Hold {
    holds: Arc<Holds>,
    number: u64,
    mark: u64,
}

impl Hold {
    /// Of what comes from this place on.
    pub(crate) fn begin(holds: &Arc<Holds>, from: Seq) -> Hold {
        let (number, mark) = holds.begin(from);
        Hold { holds: holds.clone(), number, mark }
    }

    /// What collections have given up since, body and stub, packed as stubs. It says all that any read may
    /// have missed that ended before. None: there was too much of it.
    pub fn lost(&self) -> Option<Vec<Stub>> {
        self.holds.since(self.mark)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.end(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stubs(numbers: std::ops::Range<u32>) -> Vec<Stub> {
        numbers.map(|number| Stub::from(number.to_le_bytes())).collect()
    }

    fn give_up(holds: &Holds, numbers: std::ops::Range<u32>) {
        holds.going(stubs(numbers));
        holds.gone();
    }

    #[test]
    fn an_answer_hears_of_all_that_goes_while_it_is_under_way() {
        let holds = Holds::default();
        give_up(&holds, 0..3);
        let (first, mark) = holds.begin(Seq(0));
        assert_eq!(holds.since(mark), Some(vec![]));
        give_up(&holds, 3..5);
        holds.going(stubs(5..6));
        let (_, later) = holds.begin(Seq(7));
        assert_eq!(holds.since(mark), Some(stubs(3..6)));
        // It may not be committed yet.
        assert_eq!(holds.since(later), Some(stubs(5..6)));
        holds.gone();
        holds.end(first);
        assert_eq!(holds.since(later), Some(stubs(5..6)));
    }

    #[test]
    fn too_much_is_not_remembered_and_nothing_is_when_nobody_asks() {
        let holds = Holds::default();
        let (number, mark) = holds.begin(Seq(0));
        give_up(&holds, 0..10);
        let later = holds.begin(Seq(0)).1;
        give_up(&holds, 10..REMEMBERED_MAX as u32 + 10);
        assert_eq!(holds.since(mark), None);
        assert_eq!(holds.since(later), Some(stubs(10..REMEMBERED_MAX as u32 + 10)));
        holds.going(vec![Stub::from(vec![0; REMEMBERED_BYTES_MAX + 1])]);
        holds.gone();
        assert_eq!(holds.since(later), None);
        holds.end(number);
        holds.end(number + 1);
        give_up(&holds, 0..5);
        assert!(holds.lock().gone.is_empty());
        assert_eq!(holds.since(holds.begin(Seq(0)).1), Some(vec![]));
    }

    #[test]
    fn the_oldest_answer_says_what_is_spared_until_it_is_old_or_over() {
        let holds = Holds::default();
        assert_eq!(holds.spared_from(), None);
        let first = holds.begin(Seq(5)).0;
        holds.begin(Seq(9));
        assert_eq!(holds.spared_from(), Some(Seq(5)));
        let long_ago = Instant::now().checked_sub(SPARED_FOR).unwrap();
        holds.lock().under_way.get_mut(&first).unwrap().0 = long_ago;
        assert_eq!(holds.spared_from(), Some(Seq(9)));
        holds.end(first);
        assert_eq!(holds.spared_from(), Some(Seq(9)));
        holds.end(first + 1);
        assert_eq!(holds.spared_from(), None);
    }
}
