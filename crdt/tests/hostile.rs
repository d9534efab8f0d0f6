//! Bytes from outside do no harm: they are a delta in its only form, or an error; decoding takes memory in proportion to
//! their length; and what was decoded can be joined, read, written to and sent on, whatever it claims.

mod subjects;

use allocation_counter::measure;
use polity_crdt::{
    AwSet, BoundedCounter, Crdt, DecodeError, Delta, Dot, DwFlag, EwFlag, GCounter, GSet, LwwRegister, MvRegister,
    OrMap, OwnerMap, PnCounter, Replica, ReplicaId, RwSet, VersionVector,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use subjects::world::{World, Writes, cases, for_histories};
use subjects::{Dice, REPLICAS, Subject};

/// Memory for each byte of input. The most that a byte costs is an entry of a list of lists: two bytes make an interval of
/// 24, a vector has room for twice what it holds, and while it moves the old room is there too; and each live dot is
/// listed twice more while it is checked that none is claimed twice.
const MOST_PER_BYTE: u64 = 200;
/// What the smallest of everything costs.
const MOST_ON_TOP: u64 = 1_024;

/// Decodes, and does with the outcome all that a replica would do. Returns whether it was a delta.
fn survive<S: Subject>(bytes: &[u8], here: &Replica<S>) -> bool {
    let mut decoded = Err(DecodeError::Truncated);
    let cost = measure(|| decoded = S::Delta::decode(bytes));
    let most = MOST_PER_BYTE * bytes.len() as u64 + MOST_ON_TOP;
    assert!(cost.bytes_max <= most, "{} bytes at once for {}", cost.bytes_max, bytes.len());
    assert!(cost.bytes_total <= 4 * most, "{} bytes in all for {}", cost.bytes_total, bytes.len());
    let Ok(delta) = decoded else { return false };
    assert_eq!(delta.encode(), bytes, "there is another form of {delta:?}");

    for replica in [Replica::new(REPLICAS[1]), here.clone()] {
        let mut replica: Replica<S> = replica;
        let mut joined = replica.full();
        joined.join(delta.clone());
        replica.merge(delta.clone());
        assert!(!replica.merge(delta.clone()), "the second time it is known");
        assert!(replica.context().covers(&delta.context()) && replica.context().covers(&replica.live()));
        replica.read();
        for dice in 0..8 {
            // Refused or not: counters may be used up, totals may overflow.
            drop(replica.update(|state, w| state.act(w, &mut Dice(dice)).1));
        }
        for sent_on in [replica.full(), replica.since(here.context())] {
            let again = S::Delta::decode(&sent_on.encode());
            assert_eq!(again.as_ref(), Ok(&sent_on));
        }
        // A dot that was given to two writes is in two places of a join that no replica has looked at.
        let again = S::Delta::decode(&joined.encode());
        assert!(again == Err(DecodeError::Twice) || again.as_ref() == Ok(&joined));
    }
    true
}

/// A valid delta with much in it.
fn rich<S: Subject>() -> (World<S>, S::Delta) {
    let mut world = World::<S>::new(&REPLICAS, Writes::Always);
    let mut dice = 1_u32;
    for step in 0..60_u32 {
        dice = dice.wrapping_mul(0x9e37_79b1) ^ step;
        world.step((dice >> 8) as u8 % 12, step as usize % 4, dice);
    }
    let delta = world.joined().full();
    (world, delta)
}

fn random_bytes<S: Subject>() {
    let (world, _) = rich::<S>();
    let byte = || prop_oneof![4 => 0..4_u8, 1 => any::<u8>(), 1 => Just(0xff)];
    let bytes = prop::collection::vec(byte(), 0..48).prop_map(|mut bytes| {
        bytes.insert(0, polity_crdt::FORMAT);
        bytes
    });
    let config = Config { cases: cases(10_000), source_file: Some(file!()), ..Config::default() };
    let outcome = TestRunner::new(config).run(&bytes, |bytes| {
        survive(&bytes[1..], &world.replicas[0]);
        survive(&bytes, &world.replicas[0]);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// One valid encoding: cut off at each place, with each bit turned, each byte left out, doubled, or made the least or
/// the greatest.
fn every_small_damage<S: Subject>() {
    let (world, delta) = rich::<S>();
    let bytes = delta.encode();
    assert!(survive(&bytes, &world.replicas[0]));
    for end in 0..bytes.len() {
        assert!(!survive(&bytes[..end], &world.replicas[0]), "a delta that ends early");
    }
    assert_eq!(S::Delta::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing(1)));
    for at in 0..bytes.len() {
        let (before, after) = (&bytes[..at], &bytes[at + 1..]);
        for bit in 0..8 {
            survive(&[before, &[bytes[at] ^ 1 << bit], after].concat(), &world.replicas[0]);
        }
        for instead in [&[][..], &[bytes[at]; 2], &[0], &[0xff], &[bytes[at] | 0x80, 0], &HUGE] {
            survive(&[before, instead, after].concat(), &world.replicas[0]);
        }
    }
}

/// 2⁶⁴ - 1.
const HUGE: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];

/// Encodings of random histories, damaged in several places at once.
fn random_damage<S: Subject>() {
    for_histories(cases(2_000), 20, |steps| {
        let world = World::<S>::of(steps, &REPLICAS, Writes::Always);
        for delta in &world.sent {
            let mut bytes = delta.encode();
            for step in steps.iter().take(3) {
                let at = step.dice as usize % bytes.len();
                match step.dice >> 24 & 3 {
                    0 => bytes.insert(at, (step.dice >> 16) as u8 & 3),
                    1 => drop(bytes.remove(at)),
                    2 => bytes[at] = (step.dice >> 16) as u8,
                    _ => bytes[at] = bytes[at].wrapping_add(1),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            survive(&bytes, &world.replicas[0]);
        }
        Ok(())
    });
}

macro_rules! hostile {
    ($($name:ident: $type:ty;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn random_bytes() {
                super::random_bytes::<$type>();
            }

            #[test]
            fn damage() {
                every_small_damage::<$type>();
                random_damage::<$type>();
            }
        })*
    };
}

hostile! {
    ew_flag: EwFlag;
    dw_flag: DwFlag;
    lww_register: LwwRegister<u8>;
    mv_register: MvRegister<u8>;
    g_counter: GCounter;
    pn_counter: PnCounter;
    bounded_counter: BoundedCounter;
    g_set: GSet<u8>;
    aw_set: AwSet<u8>;
    rw_set: RwSet<u8>;
    owner_map: OwnerMap<u8, u8>;
    map_of_registers: OrMap<u8, LwwRegister<u8>>;
    map_of_counters: OrMap<u8, PnCounter>;
    map_of_maps: OrMap<u8, OrMap<u8, AwSet<u8>>>;
}

const ID: [u8; 8] = [7, 0, 0, 0, 0, 0, 0, 0];

/// A set of strings that claims all dots of a replica to be dead.
fn all_dots_dead() -> Vec<u8> {
    let longest = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    [&[1, 1, 1, 0], &ID[..], &[1, 0], &longest].concat()
}

#[test]
fn a_context_of_all_dots_costs_no_more_than_its_bytes() {
    let bytes = all_dots_dead();
    let delta = <AwSet<String> as Crdt>::Delta::decode(&bytes).expect("a valid claim");
    assert_eq!(delta.dead().max(ReplicaId(7)), u64::MAX);
    assert_eq!(delta.encode(), bytes);
    let mut set = Replica::<AwSet<String>>::new(ReplicaId(7));
    for element in 0..100 {
        set.update(|set, w| set.add(w, element.to_string())).expect("there is room");
    }
    let cost = measure(|| {
        set.merge(delta.clone());
    });
    assert!(cost.bytes_total < 4_096, "{} bytes", cost.bytes_total);
    assert!(set.is_empty());
    assert_eq!(set.context().interval_count(), 1);
    let refused = set.update(|set, w| set.add(w, "tea".to_owned()));
    assert_eq!(refused, Err(polity_crdt::Error::Exhausted(ReplicaId(7))));
    assert_eq!(set.full().encode(), bytes);
    assert!(set.since(&VersionVector::new()).context() == *set.context());
}

#[test]
fn lengths_beyond_the_bytes_are_refused_without_room_for_them() {
    type Strings = <AwSet<String> as Crdt>::Delta;
    type Lists = <MvRegister<Vec<[u64; 4]>> as Crdt>::Delta;
    let entries = [&[1][..], &HUGE].concat();
    let intervals = [&[1, 1, 1, 0], &ID[..], &HUGE].concat();
    let replicas = [&[1, 1][..], &HUGE].concat();
    let string = [&[1, 4][..], &HUGE].concat();
    let list = [&[1, 2, 0], &ID[..], &[2], &HUGE].concat();
    for bytes in [entries, intervals, replicas, string] {
        let cost = measure(|| assert!(Strings::decode(&bytes).is_err()));
        assert!(cost.bytes_total <= MOST_ON_TOP, "{} bytes", cost.bytes_total);
    }
    let cost = measure(|| assert!(Lists::decode(&list).is_err()));
    assert!(cost.bytes_total <= MOST_ON_TOP, "{} bytes", cost.bytes_total);
}

/// The content of a delta has one form too, although `postcard` reads several.
#[test]
fn keys_and_values_have_one_form() {
    type Numbers = <MvRegister<u64> as Crdt>::Delta;
    let with = |value: &[u8]| Numbers::decode(&[&[1, 2, 0], &ID[..], &[2], value].concat());
    assert!(with(&[5]).is_ok());
    assert_eq!(with(&[0x85, 0]), Err(DecodeError::Content), "a longer form of 5");
    type Elements = <GSet<u64> as Crdt>::Delta;
    let with = |element: &[u8]| Elements::decode(&[&[1, 4], element, &[2, 0], &ID[..], &[2]].concat());
    assert!(with(&[5]).is_ok());
    assert_eq!(with(&[0x85, 0]), Err(DecodeError::Content), "a longer form of 5");
    // What a replica has given to 9, 3 and 9 again: a map has its keys in order, once.
    type Rights = <BoundedCounter as Crdt>::Delta;
    let with = |given: &[u8]| Rights::decode(&[&[1, 2, 0], &ID[..], &[2, 8, 0], given].concat());
    assert!(with(&[2, 3, 1, 9, 1]).is_ok());
    assert_eq!(with(&[2, 9, 1, 3, 1]), Err(DecodeError::Content), "out of order");
    assert_eq!(with(&[2, 9, 1, 9, 1]), Err(DecodeError::Content), "twice");
}

/// Valid encodings whose decoded form is as large as it can be for their bytes.
#[test]
fn the_greediest_deltas_are_within_the_bound() {
    let many = 3_000_u64;
    let ids = |at: u64| ReplicaId(if at.is_multiple_of(2) { at << 40 } else { at });
    let mut intervals = VersionVector::new();
    (1..=many).for_each(|at| {
        intervals.insert(Dot { replica: ReplicaId(1), counter: 2 * at });
    });
    let replicas: VersionVector = (0..many).map(|at| Dot { replica: ids(at), counter: 1 }).collect();
    for dots in [intervals, replicas] {
        let mut delta = <AwSet<u8> as Crdt>::Delta::default();
        delta.kill(&dots);
        assert!(survive::<AwSet<u8>>(&delta.encode(), &Replica::new(ReplicaId(5))));
    }
    type Nested = OrMap<u8, OrMap<u8, AwSet<u8>>>;
    let mut nested = Replica::<Nested>::new(ReplicaId(5));
    let mut flat = Replica::<MvRegister<u8>>::new(ReplicaId(5));
    for at in 0..many {
        let (outer, inner, element) = ((at % 250) as u8, (at / 250) as u8, (at % 7) as u8);
        let added =
            nested.update(|map, w| map.update(w, outer, |map, w| map.update(w, inner, |set, w| set.add(w, element))));
        assert!(added.is_ok());
        let mut other = Replica::<MvRegister<u8>>::new(ids(at));
        let written = other.update(|register, w| register.set(w, 0)).expect("there is room").expect("a change");
        flat.merge(written);
    }
    assert!(survive::<Nested>(&nested.full().encode(), &Replica::new(ReplicaId(6))));
    assert!(survive::<MvRegister<u8>>(&flat.full().encode(), &Replica::new(ReplicaId(6))));
}
