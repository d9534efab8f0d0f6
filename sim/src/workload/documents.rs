//! Documents, which every node holds: a set to which clients add numbers and from which they remove what they see, and a
//! map of registers that they overwrite.
//!
//! A document asks nobody, so a write is no operation that is invoked and returns: it is recorded as what it made live and
//! what it took away. All numbers are unique and say nothing else.

use polity::Document;
use polity::crdt::{AwSet, Change, Crdt, MvRegister, OrMap, Writer};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Client, Pace, Workload, seed_of};
use crate::history::Event;

pub(super) const WORKLOAD: Workload = Workload {
    name: "documents",
    about: "every client adds to, removes from and overwrites parts of replicated documents",
    keys: |_| Vec::new(),
    clients: |client, paces| {
        vec![
            Box::pin(edit::<Numbers>(client.clone(), paces.next())),
            Box::pin(edit::<Registers>(client.clone(), paces.next())),
        ]
    },
    observers: |_| Vec::new(),
    read: |_, _| Box::pin(async { true }),
};

type Numbers = AwSet<u64>;
type Registers = OrMap<u8, MvRegister<u64>>;

/// How many registers there are.
const REGISTERS: u8 = 5;

/// A type of which numbers can be added and taken away.
trait Numbered: Crdt {
    const NAME: &'static str;
    fn holds(&self) -> Vec<u64>;
    /// A write. Returns what it takes away.
    fn write(&self, w: &mut Writer<'_>, number: u64, rng: &mut StdRng, gone: &mut Vec<u64>) -> Change<Self>;
}

impl Numbered for Numbers {
    const NAME: &'static str = "numbers";

    fn holds(&self) -> Vec<u64> {
        self.iter().copied().collect()
    }

    fn write(&self, w: &mut Writer<'_>, number: u64, rng: &mut StdRng, gone: &mut Vec<u64>) -> Change<Self> {
        if self.is_empty() || rng.random_bool(0.6) {
            return self.add(w, number);
        }
        let victim = *self.iter().nth(rng.random_range(0..self.len())).expect("it is in range");
        gone.push(victim);
        Ok(self.remove(&victim))
    }
}

impl Numbered for Registers {
    const NAME: &'static str = "registers";

    fn holds(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.iter().flat_map(|(_, register)| register.values().copied()).collect();
        all.sort_unstable();
        all
    }

    fn write(&self, w: &mut Writer<'_>, number: u64, rng: &mut StdRng, gone: &mut Vec<u64>) -> Change<Self> {
        let key = rng.random_range(0..REGISTERS);
        gone.extend(self.get(&key).into_iter().flat_map(MvRegister::values));
        if rng.random_bool(0.2) {
            return Ok(self.remove(&key));
        }
        self.update(w, key, |register, w| register.set(w, number))
    }
}

fn open<T: Numbered>(client: &Client) -> Option<Document<T>> {
    client.node.document::<T>(T::NAME).ok()
}

async fn edit<T: Numbered>(client: Client, mut pace: Pace) {
    // The node may have stopped, and then its process is about to end.
    let Some(document) = open::<T>(&client) else { return };
    let mut written = 0;
    while pace.next().await {
        written += 1;
        let number = seed_of(client.process, T::NAME, written);
        let mut removed = Vec::new();
        let is_add = std::cell::Cell::new(false);
        let wrote = document.update(|state, w| {
            let change = state.write(w, number, &mut pace.rng, &mut removed)?;
            let adds = change.as_ref().is_some_and(|delta| !polity::crdt::Delta::live(delta).is_empty());
            is_add.set(adds);
            Ok(change)
        });
        if wrote == Ok(true) {
            let added = if is_add.get() { vec![number] } else { Vec::new() };
            client.recorder.event(Event::Edited { host: client.host, document: T::NAME.to_owned(), added, removed });
        }
    }
}

/// Says what this node's replicas hold.
pub(super) fn tell(client: &Client) {
    tell_one::<Numbers>(client);
    tell_one::<Registers>(client);
}

fn tell_one<T: Numbered>(client: &Client) {
    if let Some(document) = open::<T>(client) {
        let holds = document.read(T::holds);
        client.recorder.event(Event::Shows { host: client.host, document: T::NAME.to_owned(), holds });
    }
}
