//! [`AntiEntropy`](polity_crdt::sync::AntiEntropy) under every fault of a network (promises C1, C2, C4).
//!
//! `POLITY_HISTORIES=1000000 cargo test --release -p polity-crdt --test anti_entropy` is the longer mode.

mod network;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use network::{Random, World, Written, history, long_history};
use polity_crdt::sync::SyncConfig;
use polity_crdt::{
    AwSet, Change, Error, GCounter, LwwRegister, MvRegister, OrMap, OwnerMap, PnCounter, ReplicaId, RwSet, Timestamp,
    Writer,
};

impl Written for AwSet<u8> {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        let element = (random >> 8) as u8 % 6;
        if random.is_multiple_of(3) { Ok(self.remove(&element)) } else { self.add(w, element) }
    }
}

impl Written for RwSet<u8> {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        let element = (random >> 8) as u8 % 6;
        if random.is_multiple_of(3) { self.remove(w, element) } else { self.add(w, element) }
    }
}

impl Written for GCounter {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        self.add(w, random % 5)
    }
}

impl Written for LwwRegister<u64> {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        self.set(w, Timestamp { millis: random % 7, logical: 0 }, random)
    }
}

impl Written for OrMap<u8, MvRegister<u64>> {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        let key = (random >> 8) as u8 % 6;
        if random.is_multiple_of(4) {
            return Ok(self.remove(&key));
        }
        self.update(w, key, |register, w| register.set(w, random))
    }
}

impl Written for OwnerMap<u8, u64> {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        let key = (random >> 8) as u8 % 6;
        if random.is_multiple_of(3) { self.remove(w, w.replica(), &key) } else { self.put(w, key, random) }
    }
}

type Deep = OrMap<u8, OrMap<u8, PnCounter>>;

impl Written for Deep {
    fn write(&self, w: &mut Writer<'_>, random: u64) -> Change<Self> {
        let (key, inner) = ((random >> 8) as u8 % 3, (random >> 16) as u8 % 3);
        match random % 8 {
            0 => Ok(self.remove(&key)),
            1 => self.update(w, key, |map, _| Ok(map.remove(&inner))),
            _ => self.update(w, key, |map, w| map.update(w, inner, |count, w| count.add(w, (random % 9) as i64 - 4))),
        }
    }
}

fn histories<T: Written>(seeds: u64) {
    let wanted = std::env::var("POLITY_HISTORIES").ok().and_then(|text| text.parse::<u64>().ok());
    let first = std::env::var("POLITY_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match first {
        Some(seed) => seed..seed + 1,
        None => 0..wanted.map_or(seeds, |all| all / 7),
    };
    for seed in seeds {
        let run = AssertUnwindSafe(|| {
            drop(history::<T>(seed));
            // One costs as much as several of the others.
            if seed.is_multiple_of(4) || first.is_some() {
                drop(long_history::<T>(seed));
            }
        });
        if let Err(panic) = catch_unwind(run) {
            eprintln!("POLITY_SEED={seed} replays this");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn add_wins_sets_lose_nothing_and_resurrect_nothing() {
    histories::<AwSet<u8>>(1_000);
}

#[test]
fn remove_wins_sets_become_equal() {
    histories::<RwSet<u8>>(1_000);
}

#[test]
fn counters_lose_nothing() {
    histories::<GCounter>(1_000);
}

#[test]
fn registers_become_equal() {
    histories::<LwwRegister<u64>>(1_000);
}

#[test]
fn maps_lose_nothing_and_resurrect_nothing() {
    histories::<OrMap<u8, MvRegister<u64>>>(1_000);
}

#[test]
fn maps_of_maps_lose_nothing_and_resurrect_nothing() {
    histories::<Deep>(1_000);
}

#[test]
fn owned_entries_are_not_lost_and_go_with_their_owners() {
    histories::<OwnerMap<u8, u64>>(1_000);
}

#[test]
fn what_a_departed_owner_has_written_goes_and_its_actor_is_retired() {
    let config = SyncConfig { retire_grace: seconds(4), ..SyncConfig::default() };
    let mut world = World::<OwnerMap<u8, u64>>::new(1, 3, config);
    world.run(seconds(2));
    let ids = world.ids();
    for (at, id) in ids.iter().enumerate() {
        world.write_with(*id, |map, w| map.put(w, 7, at as u64));
    }
    world.run(seconds(2));
    let owners = |world: &World<OwnerMap<u8, u64>>, at: usize| -> Vec<ReplicaId> {
        world.replicas[&ids[at]].replica().under(&7).map(|(owner, ..)| owner).collect()
    };
    assert_eq!(owners(&world, 1), ids);
    // Nobody hears that it is gone: being away is no reason to lose anything.
    let last = world.write_with(ids[0], |map, w| map.put(w, 8, 9));
    assert!(last);
    world.crash(ids[0]);
    world.run(seconds(20));
    assert_eq!(owners(&world, 1), ids);
    world.tell_who_is_up();
    assert_eq!(owners(&world, 1), ids[1..], "at once, and without a message");
    for _ in 0..10 {
        world.tell_who_is_up();
        world.run(seconds(10));
    }
    assert!(world.are_equal());
    world.check();
    assert!(world.replicas.values().all(|replica| replica.replica().context().max(ids[0]) == 0));
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn departed_actors_leave_the_context_when_all_have_heard_of_them() {
    for seed in 0..200 {
        let config = SyncConfig { retire_grace: seconds(4), ..SyncConfig::default() };
        let mut world = World::<AwSet<u8>>::new(seed, 3, config);
        world.run(seconds(2));
        let ids = world.ids();
        for number in 0..9 {
            world.write_with(ids[number % 3], |set, w| set.add(w, number as u8));
        }
        world.run(seconds(2));
        world.crash(ids[0]);
        world.start();
        world.tell_who_is_up();
        world.run(seconds(2));
        // What it has written is live: it stays in the context for as long as that.
        world.run(seconds(60));
        world.tell_who_is_up();
        world.run(seconds(60));
        let keeps = |world: &World<AwSet<u8>>, actor: ReplicaId| {
            world.replicas.values().filter(|replica| replica.replica().context().max(actor) > 0).count()
        };
        assert_eq!(keeps(&world, ids[0]), 3);
        let live: Vec<u8> = world.replicas[&ids[1]].replica().iter().copied().collect();
        for element in live {
            world.write_with(ids[1], |set, _| Ok(set.remove(&element)));
        }
        for _ in 0..10 {
            world.tell_who_is_up();
            world.run(seconds(10));
        }
        assert_eq!(keeps(&world, ids[0]), 0, "seed {seed}");
        assert!(world.are_equal());
        world.check();
        for replica in world.replicas.values() {
            assert_eq!(replica.replicas().count(), 3, "its row is gone too");
        }
    }
}

#[test]
fn one_that_is_merely_down_blocks_retirement_and_is_named() {
    let config = SyncConfig { retire_grace: seconds(4), ..SyncConfig::default() };
    let mut world = World::<AwSet<u8>>::new(1, 4, config);
    world.run(seconds(2));
    let ids = world.ids();
    world.write_with(ids[0], |set, w| set.add(w, 1));
    world.run(seconds(2));
    for other in [0, 1, 2] {
        world.set_cut(ids[3], ids[other], true);
    }
    world.tell_who_is_up();
    world.write_with(ids[1], |set, _| Ok(set.remove(&1)));
    world.run(seconds(2));
    world.crash(ids[0]);
    for _ in 0..10 {
        world.tell_who_is_up();
        world.run(seconds(10));
    }
    for other in [1, 2] {
        let replica = &world.replicas[&ids[other]];
        assert!(replica.replica().context().max(ids[0]) > 0);
        assert_eq!(replica.blocked().get(&ids[0]).map(Vec::as_slice), Some(&[ids[3]][..]));
    }
    world.heal();
    for _ in 0..10 {
        world.tell_who_is_up();
        world.run(seconds(10));
    }
    assert!(world.replicas.values().all(|replica| replica.replica().context().max(ids[0]) == 0));
    assert!(world.are_equal() && world.replicas[&ids[3]].replica().is_empty());
}

#[test]
fn marks_of_removes_are_dropped_when_all_have_seen_them() {
    let mut world = World::<RwSet<u8>>::new(3, 3, SyncConfig::default());
    world.run(seconds(1));
    let ids = world.ids();
    for number in 0..30 {
        world.write_with(ids[number % 3], |set, w| set.add(w, number as u8));
    }
    world.run(seconds(1));
    for number in 0..30 {
        world.write_with(ids[(number + 1) % 3], |set, w| set.remove(w, number as u8));
    }
    world.run(seconds(60));
    for replica in world.replicas.values() {
        assert_eq!((replica.replica().len(), replica.replica().removed()), (0, 0));
    }
    assert!(world.are_equal());
}

#[test]
fn one_that_was_forgotten_exports_what_it_had_and_says_nothing_more() {
    let mut world = World::<AwSet<u8>>::new(5, 3, SyncConfig::default());
    world.run(seconds(1));
    let ids = world.ids();
    world.write_with(ids[0], |set, w| set.add(w, 1));
    world.run(seconds(1));
    world.set_cut(ids[0], ids[1], true);
    world.set_cut(ids[0], ids[2], true);
    world.write_with(ids[0], |set, w| set.add(w, 2));
    world.run(seconds(1));
    world.departed.insert(ids[0]);
    world.tell_who_is_up();
    world.set_cut(ids[0], ids[1], false);
    world.tell_who_is_up();
    world.run(seconds(20));
    let forgotten = world.replicas.get_mut(&ids[0]).expect("it runs");
    let export = forgotten.take_export().expect("it was told");
    assert!(!world.replicas[&ids[1]].replica().contains(&2), "nothing more is taken from it");
    // The application decides to take it in all the same.
    let now = world.now;
    world.replicas.remove(&ids[0]);
    world.replicas.get_mut(&ids[1]).expect("it runs").import(now, export);
    world.tell_who_is_up();
    world.run(seconds(20));
    assert_eq!(world.replicas[&ids[2]].replica().iter().collect::<Vec<_>>(), [&1, &2]);
}

#[test]
fn what_one_that_was_forgotten_gives_to_a_newcomer_does_not_bring_removed_dots_back() {
    let config = SyncConfig { retire_grace: seconds(4), ..SyncConfig::default() };
    let mut world = World::<AwSet<u8>>::new(5, 4, config);
    world.run(seconds(1));
    let ids = world.ids();
    let (forgotten, writer, stay) = (ids[0], ids[1], [ids[2], ids[3]]);
    world.write_with(writer, |set, w| set.add(w, 1));
    world.write_with(forgotten, |set, w| set.add(w, 2));
    world.run(seconds(2));
    for other in [writer, stay[0], stay[1]] {
        world.set_cut(forgotten, other, true);
    }
    world.tell_who_is_up();
    world.write_with(stay[0], |set, _| Ok(set.remove(&1)));
    world.write_with(stay[1], |set, _| Ok(set.remove(&2)));
    world.run(seconds(2));
    world.crash(writer);
    let now = world.now;
    world.replicas.get_mut(&stay[0]).expect("it runs").handle_forgotten(now, [forgotten].into());
    for _ in 0..10 {
        world.tell_who_is_up();
        world.run(seconds(10));
    }
    for id in stay {
        let context = world.replicas[&id].replica().context();
        assert_eq!((context.max(writer), context.max(forgotten)), (0, 0), "both are retired");
    }
    let newcomer = world.start();
    for other in stay {
        world.set_cut(newcomer, other, true);
    }
    world.tell_who_is_up();
    world.run(seconds(5));
    assert_eq!(world.replicas[&newcomer].replica().len(), 2, "it knows no better");
    world.heal();
    for _ in 0..10 {
        world.tell_who_is_up();
        world.run(seconds(10));
    }
    let export = world.replicas.get_mut(&forgotten).expect("it runs").take_export().expect("it was told");
    let now = world.now;
    world.replicas.remove(&forgotten);
    world.replicas.get_mut(&stay[0]).expect("it runs").import(now, export);
    world.run(seconds(20));
    for replica in world.replicas.values() {
        assert!(replica.replica().is_empty(), "what was removed is back");
    }
    assert!(world.settle(seconds(60)));
}

#[test]
fn every_chunk_size_gives_the_same_and_breaking_off_leaves_what_came() {
    for chunk in [1, 2, 3, 7, 64, 5_000] {
        let config = SyncConfig { chunk_items: chunk, chunk_bytes: 1 << 20, ..SyncConfig::default() };
        let mut world = World::<OrMap<u8, MvRegister<u64>>>::new(7, 1, config);
        let first = world.ids()[0];
        let mut random = Random::new(chunk as u64);
        for _ in 0..500 {
            let number = random.next();
            world.write_with(first, |map, w| map.write(w, number));
        }
        let second = world.start();
        world.weather.lost = 20;
        world.run(seconds(3));
        let (whole, part) = (world.replicas[&first].replica(), world.replicas[&second].replica());
        let known = part.context().clone();
        let expected = whole.live().intersection(&known);
        assert_eq!(part.live(), expected, "what is claimed is there, and nothing else");
        world.heal();
        assert!(world.settle(seconds(60)));
        world.check();
    }
}

/// The bytes of healing after each of two replicas has added and removed some of 2,000 shared keys unseen.
fn healing(added: u64, removed: u64) -> u64 {
    let mut world = World::<OrMap<String, MvRegister<String>>>::new(11, 2, SyncConfig::default());
    world.run(seconds(1));
    let ids = world.ids();
    let put = |world: &mut World<_>, at, number: u64| {
        world.write_with(at, |map: &OrMap<String, MvRegister<String>>, w| {
            map.update(w, format!("{number:012x}"), |register, w| register.set(w, format!("{number:016x}")))
        });
    };
    (0..2_000).for_each(|number| put(&mut world, ids[number as usize % 2], number));
    world.run(seconds(60));
    world.set_cut(ids[0], ids[1], true);
    world.tell_who_is_up();
    for (at, from) in [(ids[0], 0), (ids[1], 1_000)] {
        (0..added).for_each(|number| put(&mut world, at, 10_000 + from + number));
        for number in from..from + removed {
            world.write_with(at, |map, _| Ok(map.remove(&format!("{number:012x}"))));
        }
    }
    world.run(seconds(60));
    let before = world.bytes;
    world.heal();
    assert!(world.settle(seconds(60)));
    world.check();
    world.bytes - before
}

#[test]
fn healing_costs_what_differs() {
    // An add is worth its key and value, 28 bytes, and a remove its key, 12. Some rounds that find nothing are in it.
    for (added, removed, most) in [(0, 1, 900), (1, 0, 900), (100, 0, 200 * 28 * 3 / 2), (100, 100, 200 * 40 * 9 / 5)] {
        let bytes = healing(added, removed);
        assert!(bytes <= most, "{bytes} of {most} for {added} adds and {removed} removes on each side");
    }
}

#[test]
fn nothing_is_kept_for_one_that_went_down_before_it_had_everything() {
    let mut world = World::<AwSet<u8>>::new(1, 2, SyncConfig::default());
    world.run(seconds(1));
    let ids = world.ids();
    world.set_cut(ids[0], ids[1], true);
    world.write_with(ids[0], |set, w| set.add(w, 1));
    let unacknowledged = |world: &World<AwSet<u8>>| world.replicas[&ids[0]].lag(world.now).0;
    assert_eq!(unacknowledged(&world), 1);
    world.tell_who_is_up();
    assert_eq!(unacknowledged(&world), 0);
    world.run(seconds(2));
    assert_eq!(unacknowledged(&world), 0);
    world.heal();
    assert!(world.settle(seconds(20)));
    world.check();
}

#[test]
fn a_refused_write_leaves_everything_as_it_was() {
    let mut world = World::<GCounter>::new(1, 1, SyncConfig::default());
    let only = world.ids()[0];
    world.write_with(only, |count, w| count.add(w, u64::MAX));
    let before = world.replicas[&only].replica().clone();
    let replica = world.replicas.get_mut(&only).expect("it runs");
    assert_eq!(replica.update(seconds(1), |count, w| count.add(w, 1)), Err(Error::CountOverflow(only)));
    assert_eq!(*replica.replica(), before);
}

#[test]
fn one_that_cannot_be_reached_any_more_is_not_waited_for() {
    let mut world = World::<AwSet<u8>>::new(9, 2, SyncConfig::default());
    world.run(seconds(1));
    let ids = world.ids();
    world.set_cut(ids[0], ids[1], true);
    world.write_with(ids[0], |set, w| set.add(w, 1));
    world.run(seconds(1));
    let lag = |world: &World<AwSet<u8>>| world.replicas[&ids[0]].lag(world.now);
    assert!(lag(&world).0 > 0 && lag(&world).1 >= Duration::from_millis(900), "it is being tried");
    world.tell_who_is_up();
    assert_eq!(lag(&world), (0, Duration::ZERO));
}

#[test]
fn one_that_was_left_to_a_round_lacks_something_until_that_has_found_it_equal() {
    let config = SyncConfig { log_entries: 4, ..SyncConfig::default() };
    let mut world = World::<AwSet<u8>>::new(9, 2, config);
    world.run(seconds(1));
    let ids = world.ids();
    world.set_cut(ids[0], ids[1], true);
    for number in 0..200 {
        world.write_with(ids[0], |set, w| set.add(w, number));
        world.write_with(ids[0], |set, _| Ok(set.remove(&number)));
        world.write_with(ids[0], |set, w| set.add(w, number % 3));
        world.run(Duration::from_millis(3));
    }
    assert!(world.replicas[&ids[0]].stats().overruns > 0);
    let lag = |world: &World<AwSet<u8>>| world.replicas[&ids[0]].lag(world.now);
    assert!(lag(&world).1 > Duration::ZERO);
    world.set_cut(ids[0], ids[1], false);
    for _ in 0..600 {
        world.run(Duration::from_millis(100));
        if lag(&world) == (0, Duration::ZERO) {
            break;
        }
    }
    assert_eq!(lag(&world), (0, Duration::ZERO));
    assert!(world.are_equal(), "nothing was said to be told before it was");
}

#[test]
fn a_configuration_of_zeros_is_made_workable() {
    let zero = Duration::ZERO;
    let config = SyncConfig {
        coalesce: zero,
        fan_out: 0,
        window: 0,
        chunk_items: 0,
        chunk_bytes: 0,
        round_interval: zero,
        patience: seconds(1),
        log_entries: 0,
        retire_grace: seconds(4),
    };
    let mut world = World::<AwSet<u8>>::new(9, 2, config);
    world.run(seconds(1));
    for number in 0..50 {
        let at = world.ids()[number % 2];
        world.write_with(at, |set, w| set.add(w, number as u8));
    }
    assert!(world.settle(seconds(20)));
    world.check();
}
