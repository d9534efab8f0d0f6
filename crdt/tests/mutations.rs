//! The histories of [`network`] and the tests of anti-entropy notice what they are for: with each deliberate fault some
//! history fails, and the same histories are in order without it (promise D2).

mod network;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

use network::{Written, history};
use polity_crdt::mutation::{Mutation, set};
use polity_crdt::{AwSet, Change, Writer};

impl Written for AwSet<u8> {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        let element = (random >> 8) as u8 % 6;
        if random.is_multiple_of(3) { Ok(self.remove(&element)) } else { self.add(w, element) }
    }
}

/// What a history was found to do wrong, if anything.
fn fault(seed: u64, mutation: Option<Mutation>) -> Option<String> {
    set(mutation);
    let run = catch_unwind(AssertUnwindSafe(|| drop(history::<AwSet<u8>>(seed))));
    set(None);
    run.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn every_fault_is_noticed_and_nothing_else() {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let rows = [
        (Mutation::ClaimsAhead, "is lost"),
        (Mutation::ForgetsContext, "is back"),
        (Mutation::NeverCompares, "do not become equal"),
        (Mutation::RetiresAlone, "is back"),
    ];
    let mut noticed = Vec::new();
    for (mutation, wanted) in rows {
        let found = (0..20_000).find(|seed| fault(*seed, Some(mutation)).is_some_and(|what| what.contains(wanted)));
        noticed.push((mutation, found));
    }
    let others: Vec<_> = noticed.iter().filter_map(|(_, seed)| *seed).filter_map(|seed| fault(seed, None)).collect();
    set_hook(hook);
    assert!(noticed.iter().all(|(_, seed)| seed.is_some()), "{noticed:?}");
    assert!(others.is_empty(), "without a fault: {others:?}");
}
