//! C4, its first half: what was removed leaves nothing behind. After long histories a state takes at most 1.1 times the
//! bytes of one that a fresh replica wrote with the same content.
//!
//! Only the dots of what is live differ. A fresh replica's follow each other, and in the order of keys their distance
//! takes a byte; those of a long history lie anywhere in it, and it takes three. So the promise is about content of names
//! and records; where an element is a small number those two bytes are more than a tenth, and are checked as such.

use polity_crdt::{AwSet, Delta, GCounter, MvRegister, OrMap, OwnerMap, Replica, ReplicaId};

const OPS: u32 = 200_000;
const ELEMENTS: u32 = 1_000;
const REPLICAS: u64 = 4;
/// What C4 allows for each replica that has written.
const PER_REPLICA: usize = 24;

/// xorshift32.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % limit
    }
}

/// Ids as a hash gives them: of all 64 bits.
fn id(of: u64) -> ReplicaId {
    ReplicaId((of + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn fresh<T: polity_crdt::Crdt>() -> Replica<T> {
    Replica::new(id(REPLICAS))
}

fn assert_within(grown: &impl Delta, fresh: &impl Delta, replicas: usize) {
    let (grown, fresh) = (grown.encode().len(), fresh.encode().len());
    let most = fresh * 11 / 10 + replicas * PER_REPLICA;
    assert!(grown <= most, "{grown} bytes where a fresh replica has {fresh}");
}

fn name(element: u32) -> String {
    format!("element-{element:04}")
}

/// One replica adds and removes.
#[test]
fn a_set_of_one_writer() {
    let mut set = Replica::<AwSet<String>>::new(id(0));
    let mut random = Random(1);
    for _ in 0..OPS {
        let element = name(random.below(2 * ELEMENTS));
        let done =
            set.update(|set, w| if set.contains(&element) { Ok(set.remove(&element)) } else { set.add(w, element) });
        done.expect("there is room");
    }
    assert_same_as_fresh(&set, 1);
}

/// Four replicas add and remove, and hear of each other late.
#[test]
fn a_set_of_four_writers() {
    let mut sets: Vec<Replica<AwSet<String>>> = (0..REPLICAS).map(|of| Replica::new(id(of))).collect();
    let mut random = Random(2);
    let mut late = Vec::new();
    for _ in 0..OPS {
        let at = random.below(REPLICAS as u32) as usize;
        let element = name(random.below(2 * ELEMENTS));
        let remove = sets[at].contains(&element);
        let done = sets[at].update(|set, w| if remove { Ok(set.remove(&element)) } else { set.add(w, element) });
        late.extend(done.expect("there is room"));
        if late.len() > 100 {
            for delta in late.drain(..).rev() {
                sets.iter_mut().for_each(|set| {
                    set.merge(delta.clone());
                });
            }
        }
    }
    for delta in late {
        sets.iter_mut().for_each(|set| {
            set.merge(delta.clone());
        });
    }
    assert!(sets.iter().all(|set| *set == sets[0]));
    for set in &sets {
        assert_eq!(set.context().interval_count(), REPLICAS as usize);
        assert_same_as_fresh(set, REPLICAS as usize);
    }
}

fn assert_same_as_fresh(set: &Replica<AwSet<String>>, replicas: usize) {
    assert!(set.len() as u32 > ELEMENTS * 9 / 10, "{} elements are left", set.len());
    let mut other = fresh::<AwSet<String>>();
    for element in set.iter() {
        other.update(|set, w| set.add(w, element.clone())).expect("there is room");
    }
    assert_within(&set.full(), &other.full(), replicas);
}

/// Registers that are written over and over, and whose keys come and go.
#[test]
fn a_map_of_registers() {
    let mut map = Replica::<OrMap<String, MvRegister<u32>>>::new(id(0));
    let mut random = Random(3);
    for value in 0..OPS {
        let (key, remove) = (name(random.below(ELEMENTS)), random.below(4) == 0);
        let done = map.update(|map, w| {
            if remove { Ok(map.remove(&key)) } else { map.update(w, key, |register, w| register.set(w, value)) }
        });
        done.expect("there is room");
    }
    let mut other = fresh::<OrMap<String, MvRegister<u32>>>();
    for (key, register) in map.iter() {
        let value = *register.value().expect("there is one writer");
        other.update(|map, w| map.update(w, key.clone(), |register, w| register.set(w, value))).expect("there is room");
    }
    assert!(other.len() as u32 > ELEMENTS / 2);
    assert_within(&map.full(), &other.full(), 1);
}

/// Counts and entries that are written over and over.
#[test]
fn counters_and_owned_entries() {
    let mut counter = Replica::<GCounter>::new(id(0));
    let mut entries = Replica::<OwnerMap<String, u32>>::new(id(0));
    let mut random = Random(4);
    for value in 0..OPS {
        counter.update(|counter, w| counter.add(w, 1)).expect("there is room");
        entries.update(|map, w| map.put(w, name(random.below(ELEMENTS)), value)).expect("there is room");
    }
    let mut other = fresh::<GCounter>();
    other.update(|counter, w| counter.add(w, OPS.into())).expect("there is room");
    assert_within(&counter.full(), &other.full(), 1);
    let mut other = fresh::<OwnerMap<String, u32>>();
    for (_, key, value) in entries.iter() {
        other.update(|map, w| map.put(w, key.clone(), *value)).expect("there is room");
    }
    assert_within(&entries.full(), &other.full(), 1);
}

/// The longest distance between two dots of a history of `OPS` takes three bytes, the shortest one.
const LONGER_DISTANCE: usize = 2;

#[test]
fn small_elements_cost_two_bytes_more_each() {
    let mut set = Replica::<AwSet<u32>>::new(id(0));
    let mut random = Random(5);
    for _ in 0..OPS {
        let element = random.below(2 * ELEMENTS);
        let done =
            set.update(|set, w| if set.contains(&element) { Ok(set.remove(&element)) } else { set.add(w, element) });
        done.expect("there is room");
    }
    let mut other = fresh::<AwSet<u32>>();
    for element in set.iter() {
        other.update(|set, w| set.add(w, *element)).expect("there is room");
    }
    let (grown, fresh) = (set.full().encode().len(), other.full().encode().len());
    assert!(grown <= fresh + LONGER_DISTANCE * set.len() + PER_REPLICA, "{grown} bytes, {fresh} when fresh");
}
