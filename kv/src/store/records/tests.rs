//! Last values: of two that did not see each other the one that is later by the clocks of their writers stays, at every replica (K2).

use std::time::Duration;

use polity_cluster::mutation::{self, Mutation};

use crate::record::{Blob, Kind, Update};
use crate::store::replica::Replica;

fn put(text: &str) -> Update {
    Update::put(Kind::LastWriterWins, Some(Blob::from(text.as_bytes().to_vec())))
}

/// Writes at two replicas at these times, brings each to the other, and returns whether the later one is at both.
fn the_later_stays(at: [u64; 2]) -> bool {
    let replicas = ["a1", "b2"].map(Replica::new);
    let texts = ["one", "two"];
    let written = [0, 1].map(|i| replicas[i].write_at(&put(texts[i]), None, Duration::from_millis(at[i])));
    replicas[0].learn(&written[1]);
    replicas[1].learn(&written[0]);
    let later = Blob::from(texts[usize::from(at[1] > at[0])].as_bytes().to_vec());
    replicas.iter().all(|replica| replica.record().values() == [&later])
}

#[test]
fn of_two_last_values_the_later_stays() {
    assert!(the_later_stays([100, 200]) && the_later_stays([200, 100]));
}

#[test]
fn this_test_catches_writes_without_a_time() {
    mutation::set(Some(Mutation::StampsNothing));
    let stays = [the_later_stays([100, 200]), the_later_stays([200, 100])];
    mutation::set(None);
    assert_ne!(stays, [true, true]);
}
