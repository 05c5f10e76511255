//! Walks along index keys, merged by their order: what lies along any of them, or along all.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use crate::{Key, Order, Seq, Source, plan::Way};

/// A walk that has to get further tries so many steps before it leaps. A leap opens another walk,
/// which takes a store about as long.
const STEPS_BEFORE_LEAP: usize = 16;
/// Rounds of leaping after which the place reached is given although it may not lie along all: whoever
/// merges looks at the event anyway, and must hear from time to time how far it has come.
const ROUNDS_MAX: usize = 64;

/// Streams of orders, merged.
pub struct Merge<'s, S: Source + 's> {
    source: &'s S,
    streams: Vec<Stream<'s, S>>,
    /// The next order of each stream that has one, as a number: they are compared much.
    heads: BinaryHeap<Reverse<(u128, usize)>>,
}

enum Stream<'s, S: Source + 's> {
    Walk(S::Walk<'s>),
    Common(Box<Common<'s, S>>),
    List(std::vec::IntoIter<Order>),
}

impl<'s, S: Source> Stream<'s, S> {
    fn pull(&mut self) -> Result<Option<u128>, S::Error> {
        match self {
            Stream::Walk(walk) => Ok(walk.next().transpose()?.map(|order| order.number())),
            Stream::Common(common) => common.pull(),
            Stream::List(orders) => Ok(orders.next().map(|order| order.number())),
        }
    }
}

impl<'s, S: Source> Merge<'s, S> {
    pub fn new(source: &'s S) -> Merge<'s, S> {
        Merge { source, streams: Vec::new(), heads: BinaryHeap::new() }
    }

    pub fn add_list(&mut self, orders: Vec<Order>) -> Result<(), S::Error> {
        self.add(Stream::List(orders.into_iter()))
    }

    /// What lies along a way between two orders.
    pub fn add_way(&mut self, way: &Way, (first, last): (Order, Order)) -> Result<(), S::Error> {
        for prefix in &way.prefixes {
            let (first, last) = (prefix.with(&first.0), prefix.with(&last.0));
            self.add(Stream::Walk(self.source.walk(way.index, &first, &last)?))?;
        }
        Ok(())
    }

    /// What lies along all of these ways.
    pub fn add_common<'w>(
        &mut self,
        ways: impl Iterator<Item = &'w Way>,
        bounds: (Order, Order),
    ) -> Result<(), S::Error> {
        let unions: Result<Vec<_>, _> =
            ways.map(|way| Union::open(self.source, way, bounds)).collect();
        let next = bounds.0.number();
        self.add(Stream::Common(Box::new(Common { unions: unions?, next })))
    }

    fn add(&mut self, mut stream: Stream<'s, S>) -> Result<(), S::Error> {
        if let Some(head) = stream.pull()? {
            self.heads.push(Reverse((head, self.streams.len())));
            self.streams.push(stream);
        }
        Ok(())
    }

    /// Fills `group` with all events that the keys cannot tell apart, each once: nearly always one
    /// event. Returns their order, as far as they share it. None: there are no more.
    pub fn next_group(&mut self, group: &mut Vec<Seq>) -> Result<Option<Order>, S::Error> {
        group.clear();
        let Some(Reverse((first, _))) = self.heads.peek().copied() else { return Ok(None) };
        while let Some(mut head) = self.heads.peek_mut() {
            let Reverse((order, stream)) = *head;
            if Order::tie_of(order) != Order::tie_of(first) {
                break;
            }
            let seq = Order::seq_of(order);
            if group.last() != Some(&seq) {
                group.push(seq);
            }
            match self.streams[stream].pull()? {
                Some(next) => *head = Reverse((next, stream)),
                None => {
                    PeekMut::pop(head);
                }
            }
        }
        Ok(Some(Order::of_number(first)))
    }
}

/// The orders that lie along each of several ways: they leap over what the others do not have.
struct Common<'s, S: Source + 's> {
    unions: Vec<Union<'s, S>>,
    /// Nothing before this is wanted any more.
    next: u128,
}

impl<S: Source> Common<'_, S> {
    fn pull(&mut self) -> Result<Option<u128>, S::Error> {
        let (mut reached, mut agreeing) = (self.next, 0);
        for round in 0.. {
            let at = round % self.unions.len();
            let Some(head) = self.unions[at].seek(reached)? else { return Ok(None) };
            agreeing = if head == reached { agreeing + 1 } else { 1 };
            reached = head;
            if agreeing == self.unions.len() || round >= ROUNDS_MAX {
                break;
            }
        }
        self.next = reached + 1;
        Ok(Some(reached))
    }
}

/// The orders that lie along one way.
struct Union<'s, S: Source + 's> {
    walks: Vec<Leaping<'s, S>>,
}

impl<'s, S: Source> Union<'s, S> {
    fn open(source: &'s S, way: &Way, (first, last): (Order, Order)) -> Result<Self, S::Error> {
        let open = |prefix: &Key| {
            let mut walk = Leaping::open(source, way, *prefix, (first, last))?;
            walk.step()?;
            Ok(walk)
        };
        Ok(Union { walks: way.prefixes.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The first order that is not before this one.
    fn seek(&mut self, order: u128) -> Result<Option<u128>, S::Error> {
        for walk in &mut self.walks {
            walk.seek(order)?;
        }
        Ok(self.walks.iter().filter_map(|walk| walk.head).min())
    }
}

/// A walk that can get ahead faster than by steps.
struct Leaping<'s, S: Source + 's> {
    source: &'s S,
    index: crate::Index,
    prefix: Key,
    last: Order,
    walk: S::Walk<'s>,
    head: Option<u128>,
}

impl<'s, S: Source> Leaping<'s, S> {
    fn open(
        source: &'s S,
        way: &Way,
        prefix: Key,
        (first, last): (Order, Order),
    ) -> Result<Self, S::Error> {
        let walk = source.walk(way.index, &prefix.with(&first.0), &prefix.with(&last.0))?;
        Ok(Leaping { source, index: way.index, prefix, last, walk, head: None })
    }

    fn step(&mut self) -> Result<(), S::Error> {
        self.head = self.walk.next().transpose()?.map(|order| order.number());
        Ok(())
    }

    fn seek(&mut self, order: u128) -> Result<(), S::Error> {
        for _ in 0..STEPS_BEFORE_LEAP {
            match self.head {
                Some(head) if head < order => self.step()?,
                _ => return Ok(()),
            }
        }
        if self.head.is_some_and(|head| head < order) {
            let first = Order::of_number(order);
            if first > self.last {
                self.head = None;
                return Ok(());
            }
            let (first, last) = (self.prefix.with(&first.0), self.prefix.with(&self.last.0));
            self.walk = self.source.walk(self.index, &first, &last)?;
            self.step()?;
        }
        Ok(())
    }
}
