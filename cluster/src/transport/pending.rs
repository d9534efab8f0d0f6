//! The requests of a link that wait for an answer: a slab whose ids are never mistaken for older ones.
//!
//! An id is a slot's index in its low bits and the slot's generation above them. A generation comes back after 2^20
//! uses of one slot. That is safe: an answer to an id that was given up can arrive only until the peer has read the
//! cancel that follows the request on the same stream, and to use the slot 2^20 times before that, as many requests and
//! cancels of 24 bytes at least would have to fit into one queue and one stream window.

use std::task::Waker;

use tokio::time::Instant;

use super::error::{Phase, RpcErrorKind};
use super::frame::{Lane, Status};

/// How many bits of an id are the slot's index.
pub(crate) const INDEX_BITS: u32 = 12;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const NO_SLOT: u32 = u32::MAX;

/// The slot that an id belongs to.
pub(crate) fn index_of(id: u32) -> usize {
    (id & INDEX_MASK) as usize
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) waker: Option<Waker>,
    pub(crate) deadline: Instant,
    pub(crate) lane: Lane,
    /// Where its frame begins in the bytes of the lane.
    pub(crate) at: u64,
    /// Nobody will take its outcome: its slot is free as soon as there is one.
    pub(crate) is_forgotten: bool,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Ending {
    Answered { status: Status, body: Vec<u8> },
    Broken { kind: RpcErrorKind, phase: Phase },
}

#[derive(Debug)]
enum State {
    Free { next: u32 },
    Waiting(Waiting),
    Done(Ending),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

/// The slab.
#[derive(Debug)]
pub(crate) struct Pending {
    slots: Vec<Slot>,
    free: u32,
    limit: usize,
    /// Slots in use: waiting, or answered and not yet taken.
    live: usize,
}

impl Pending {
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: NO_SLOT, limit, live: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.live >= self.limit
    }

    /// Takes a slot and returns its id. The slab must not be full.
    pub(crate) fn insert(&mut self, waiting: Waiting) -> u32 {
        assert!(!self.is_full(), "the caller checks for room");
        self.live += 1;
        let index = self.free;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            if let State::Free { next } = slot.state {
                self.free = next;
            }
            slot.state = State::Waiting(waiting);
            return (slot.generation << INDEX_BITS) | index;
        }
        let index = u32::try_from(self.slots.len()).expect("at most 2^INDEX_BITS slots");
        self.slots.push(Slot { generation: 0, state: State::Waiting(waiting) });
        index
    }

    fn slot(&mut self, id: u32) -> Option<&mut Slot> {
        self.slots.get_mut(index_of(id)).filter(|slot| slot.generation == id >> INDEX_BITS)
    }

    /// The request of this id, while it waits.
    pub(crate) fn waiting(&mut self, id: u32) -> Option<&mut Waiting> {
        match &mut self.slot(id)?.state {
            State::Waiting(waiting) => Some(waiting),
            _ => None,
        }
    }

    /// Ends a waiting request and returns the waker of its caller. `None` if nobody waits for it: `outcome` is lost.
    pub(crate) fn finish(&mut self, id: u32, outcome: impl FnOnce() -> Ending) -> Option<Option<Waker>> {
        let slot = self.slot(id)?;
        let State::Waiting(waiting) = &mut slot.state else { return None };
        if waiting.is_forgotten {
            self.free(id);
            return None;
        }
        let waker = waiting.waker.take();
        slot.state = State::Done(outcome());
        Some(waker)
    }

    /// What became of a request, and frees its slot; `None` while it waits.
    pub(crate) fn take(&mut self, id: u32) -> Option<Ending> {
        let slot = self.slot(id)?;
        if !matches!(slot.state, State::Done(_)) {
            return None;
        }
        match self.free(id) {
            Some(State::Done(outcome)) => Some(outcome),
            _ => None,
        }
    }

    /// Gives up a request: the request if it still waited, and its outcome if there was one.
    pub(crate) fn abandon(&mut self, id: u32) -> (Option<Waiting>, Option<Ending>) {
        match self.free(id) {
            Some(State::Waiting(waiting)) => (Some(waiting), None),
            Some(State::Done(outcome)) => (None, Some(outcome)),
            _ => (None, None),
        }
    }

    /// Lets a request run on of which nobody wants to know what became: its outcome if there is one already.
    pub(crate) fn forget(&mut self, id: u32) -> Option<Ending> {
        if let Some(waiting) = self.waiting(id) {
            waiting.is_forgotten = true;
            waiting.waker = None;
            return None;
        }
        self.take(id)
    }

    fn free(&mut self, id: u32) -> Option<State> {
        let next = self.free;
        let slot = self.slot(id)?;
        if matches!(slot.state, State::Free { .. }) {
            return None;
        }
        slot.generation = (slot.generation + 1) & (u32::MAX >> INDEX_BITS);
        let state = std::mem::replace(&mut slot.state, State::Free { next });
        self.free = id & INDEX_MASK;
        self.live -= 1;
        Some(state)
    }

    /// Ends every waiting request for which `judge` has an outcome, in the order of slots.
    pub(crate) fn finish_where(
        &mut self,
        wakers: &mut Vec<Waker>,
        mut judge: impl FnMut(u32, &Waiting) -> Option<Ending>,
    ) {
        let mut forgotten = Vec::new();
        for (index, slot) in (0_u32..).zip(&mut self.slots) {
            let id = (slot.generation << INDEX_BITS) | index;
            if let State::Waiting(waiting) = &mut slot.state
                && let Some(outcome) = judge(id, waiting)
            {
                if waiting.is_forgotten {
                    forgotten.push(id);
                }
                wakers.extend(waiting.waker.take());
                slot.state = State::Done(outcome);
            }
        }
        for id in forgotten {
            self.free(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> Waiting {
        let deadline = Instant::now();
        Waiting { waker: None, deadline, lane: Lane::Call, at: 0, is_forgotten: false }
    }

    fn answer(byte: u8) -> Ending {
        Ending::Answered { status: Status::Ok, body: vec![byte] }
    }

    #[test]
    fn an_old_id_reaches_nobody() {
        let mut pending = Pending::new(2);
        let old = pending.insert(waiting());
        assert!(pending.abandon(old).0.is_some());
        let new = pending.insert(waiting());
        assert_eq!(index_of(old), index_of(new));
        assert_ne!(old, new);
        assert!(pending.finish(old, || answer(1)).is_none());
        assert!(pending.take(old).is_none() && pending.abandon(old).0.is_none());
        assert!(pending.finish(new, || answer(2)).is_some());
        assert!(matches!(pending.take(new), Some(Ending::Answered { body, .. }) if body == [2]));
        assert!(pending.is_empty());
    }

    #[test]
    fn one_that_was_forgotten_frees_its_slot_when_it_ends() {
        let mut pending = Pending::new(2);
        let [answered, expired] = [pending.insert(waiting()), pending.insert(waiting())];
        assert!(pending.forget(answered).is_none() && pending.forget(expired).is_none());
        assert!(pending.is_full(), "they are still under way");
        assert!(pending.finish(answered, || unreachable!("nobody takes it")).is_none());
        pending.finish_where(&mut Vec::new(), |_, _| Some(answer(1)));
        assert!(pending.is_empty());
        let ended = pending.insert(waiting());
        pending.finish(ended, || answer(2));
        assert!(pending.forget(ended).is_some() && pending.is_empty());
    }

    #[test]
    fn an_answer_is_taken_once_and_holds_its_slot_until_then() {
        let mut pending = Pending::new(1);
        let id = pending.insert(waiting());
        assert!(pending.is_full() && pending.take(id).is_none());
        assert!(pending.finish(id, || answer(1)).is_some());
        assert!(pending.finish(id, || answer(2)).is_none(), "the second answer is lost");
        assert!(pending.is_full());
        assert!(pending.take(id).is_some() && pending.take(id).is_none());
        assert!(!pending.is_full());
    }
}
