//! What will happen, in order of time, and of what was scheduled first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A time of the simulation, in nanoseconds since its start.
pub(super) type Nanos = u64;

/// Events by time. What is scheduled for one time happens in the order in which it was scheduled.
pub(super) struct Queue<E> {
    /// Time, number and place: small, because a heap moves what is in it.
    heap: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    scheduled: u64,
    events: Vec<Option<E>>,
    free: Vec<u32>,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), scheduled: 0, events: Vec::new(), free: Vec::new() }
    }

    pub(super) fn push(&mut self, at: Nanos, event: E) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place as usize] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                u32::try_from(self.events.len() - 1).expect("fewer events wait than memory could hold")
            }
        };
        self.scheduled += 1;
        self.heap.push(Reverse((at, self.scheduled, place)));
    }

    /// The next event, if it is due by `until`.
    pub(super) fn pop(&mut self, until: Nanos) -> Option<(Nanos, E)> {
        let Reverse((at, _, place)) = *self.heap.peek().filter(|Reverse((at, ..))| *at <= until)?;
        self.heap.pop();
        self.free.push(place);
        let event = self.events[place as usize].take().expect("a place in the heap is taken");
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_order() {
        let mut queue = Queue::new();
        for (at, event) in [(5, "c"), (1, "a"), (5, "d"), (2, "b"), (9, "e")] {
            queue.push(at, event);
        }
        let due: Vec<_> = std::iter::from_fn(|| queue.pop(5)).collect();
        assert_eq!(due, [(1, "a"), (2, "b"), (5, "c"), (5, "d")]);
        queue.push(9, "g");
        queue.push(8, "x");
        assert_eq!(std::iter::from_fn(|| queue.pop(9)).map(|(_, event)| event).collect::<Vec<_>>(), ["x", "e", "g"]);
    }
}
