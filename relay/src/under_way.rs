//! Questions to L2 that are under way: each is asked once, however many wait for its answer.
//!
//! Nobody owns such a question. Whoever waits drives it on, and when all have left it is dropped.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

/// A question and its answer, for all who wait for it.
pub type Answer<A> = Shared<BoxFuture<'static, A>>;

/// What is being asked.
pub struct UnderWay<Q, A: Clone> {
    asked: Mutex<HashMap<Q, WeakShared<BoxFuture<'static, A>>>>,
}

impl<Q, A: Clone> Default for UnderWay<Q, A> {
    fn default() -> UnderWay<Q, A> {
        UnderWay { asked: Mutex::default() }
    }
}

impl<Q: Eq + Hash, A: Clone> UnderWay<Q, A> {
    /// The answer to `question`: that which others wait for, or what `ask` begins.
    pub fn join(&self, question: Q, ask: impl FnOnce() -> BoxFuture<'static, A>) -> Answer<A> {
        let mut asked = self.lock();
        let is_open = |answer: &Answer<A>| answer.peek().is_none();
        if let Some(answer) = asked.get(&question).and_then(WeakShared::upgrade).filter(is_open) {
            return answer;
        }
        asked.retain(|_, answer| answer.upgrade().is_some_and(|answer| is_open(&answer)));
        let answer = ask().shared();
        if let Some(weak) = answer.downgrade() {
            asked.insert(question, weak);
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Q, WeakShared<BoxFuture<'static, A>>>> {
        self.asked.lock().expect("nobody panics holding it")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_question_is_asked_once_until_it_is_answered_and_anew_afterwards() {
        let (questions, times) = (UnderWay::default(), Arc::new(AtomicUsize::new(0)));
        let ask = |answer: oneshot::Receiver<u32>| {
            let times = times.clone();
            questions.join("why", move || {
                times.fetch_add(1, Ordering::Relaxed);
                async { answer.await.unwrap() }.boxed()
            })
        };
        let (first, answer) = oneshot::channel();
        let one = ask(answer);
        let other = ask(oneshot::channel().1);
        first.send(7).unwrap();
        drop(one);
        assert_eq!((other.await, times.load(Ordering::Relaxed)), (7, 1));
        let (second, answer) = oneshot::channel();
        let later = ask(answer);
        second.send(8).unwrap();
        assert_eq!((later.await, times.load(Ordering::Relaxed)), (8, 2));
    }
}
