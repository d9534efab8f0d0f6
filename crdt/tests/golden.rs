//! The bytes of one delta of each type. They change with the format only.

use polity_crdt::{
    AwSet, BoundedCounter, Change, Crdt, Delta, DwFlag, EwFlag, GCounter, GSet, LwwRegister, MvRegister, OrMap,
    OwnerMap, PnCounter, Replica, ReplicaId, RwSet, Timestamp, Writer,
};

const A: ReplicaId = ReplicaId(0x0807_0605_0403_0201);
const B: ReplicaId = ReplicaId(0xff);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `first` and then `second` by A; the bytes are those of the second write's delta.
fn assert_golden<T: Crdt>(
    first: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>,
    second: impl FnOnce(&T, &mut Writer<'_>) -> Change<T>,
    bytes: &str,
) {
    let mut replica = Replica::<T>::new(A);
    replica.update(first).expect("nothing is refused");
    let delta = replica.update(second).expect("nothing is refused").expect("a change");
    assert_golden_delta(&delta, bytes);
}

fn assert_golden_delta<D: Delta>(delta: &D, bytes: &str) {
    assert_eq!(hex(&delta.encode()), bytes.replace(' ', ""));
    assert_eq!(D::decode(&delta.encode()).as_ref(), Ok(delta));
}

// Format 1; then how many are live, doubled, and 1 more if some are dead; the dead ones by replica; the live ones. A
// replica is its number, and its id at its first use.

#[test]
fn flags() {
    // A:1 is dead: of 1 replica, number 0, 1 interval, nothing left out before it, nothing more in it. A:2 is live.
    assert_golden::<EwFlag>(EwFlag::enable, EwFlag::enable, "01 03 01 00 0102030405060708 01 00 00 00 04");
    assert_golden::<DwFlag>(DwFlag::disable, |flag, _| Ok(flag.enable()), "01 01 01 00 0102030405060708 01 00 00");
}

#[test]
fn registers() {
    let now = Timestamp { millis: 300, logical: 7 };
    assert_golden::<LwwRegister<u8>>(
        |register, w| register.set(w, Timestamp::default(), 8),
        |register, w| register.set(w, now, 9),
        "01 03 01 00 0102030405060708 01 00 00 00 04 ac02 07 09",
    );
    assert_golden::<MvRegister<String>>(
        |register, w| register.set(w, "tea".to_owned()),
        |register, w| register.set(w, "no".to_owned()),
        "01 03 01 00 0102030405060708 01 00 00 00 04 02 6e6f",
    );
}

#[test]
fn counters() {
    assert_golden::<GCounter>(
        |counter, w| counter.add(w, 5),
        |counter, w| counter.add(w, 300),
        "01 03 01 00 0102030405060708 01 00 00 00 04 b102",
    );
    assert_golden::<PnCounter>(
        |counter, w| counter.add(w, 5),
        |counter, w| counter.add(w, -6),
        "01 03 01 00 0102030405060708 01 00 00 00 04 05 06",
    );
    // Added 5, taken none, given to one: to B, 2.
    assert_golden::<BoundedCounter>(
        |counter, w| counter.add(w, 5),
        |counter, w| counter.give(w, B, 2),
        "01 03 01 00 0102030405060708 01 00 00 00 04 05 00 01 ff01 02",
    );
}

#[test]
fn sets() {
    // 1 key, nothing dead above the keys: 04. Then the key and what became of the dots under it.
    assert_golden::<GSet<String>>(
        |set, w| set.add(w, "a".to_owned()),
        |set, w| set.add(w, "b".to_owned()),
        "01 04 01 62 02 00 0102030405060708 04",
    );
    assert_golden::<AwSet<u8>>(
        |set, w| set.add(w, 7),
        |set, _| Ok(set.remove(&7)),
        "01 04 07 01 01 00 0102030405060708 01 00 00",
    );
    assert_golden::<RwSet<u8>>(
        |set, w| set.add(w, 7),
        |set, w| set.remove(w, 7),
        "01 04 07 03 01 00 0102030405060708 01 00 00 00 04 00",
    );
}

#[test]
fn maps() {
    assert_golden::<OrMap<u8, OrMap<u8, AwSet<u8>>>>(
        |map, w| map.update(w, 1, |map, w| map.update(w, 2, |set, w| set.add(w, 3))),
        |map, w| map.update(w, 1, |map, w| map.update(w, 2, |set, w| set.add(w, 3))),
        "01 04 01 04 02 04 03 03 01 00 0102030405060708 01 00 00 00 04",
    );
    // The owner of an entry is the replica of its dot.
    assert_golden::<OwnerMap<u8, u8>>(
        |map, w| map.put(w, 7, 1),
        |map, w| map.put(w, 7, 2),
        "01 04 07 03 01 00 0102030405060708 01 00 00 00 04 02",
    );
}

/// A whole state says which dots are dead, but not where they were. If they lie between live ones, dead and live are
/// written together.
#[test]
fn full_states() {
    let mut set = Replica::<AwSet<u8>>::new(A);
    for element in 0..6 {
        set.update(|set, w| set.add(w, element)).expect("there is room");
    }
    set.update(|set, _| Ok(set.remove(&0))).expect("nothing is refused");
    // 5 keys and 1 for "dead follow": A's first dot.
    let live = "01 02 00 04 02 02 00 02 03 02 00 02 04 02 00 02 05 02 00 02";
    assert_golden_delta(&set.full(), &format!("01 15 01 00 0102030405060708 01 00 00 {live}"));
    set.update(|set, _| Ok(set.remove(&3))).expect("nothing is refused");
    // 4 keys and 2 for "dead and live follow": A's dots 1 to 6.
    let live = "01 02 00 04 02 02 00 02 04 02 00 04 05 02 00 02";
    assert_golden_delta(&set.full(), &format!("01 12 01 00 0102030405060708 01 00 05 {live}"));
}
