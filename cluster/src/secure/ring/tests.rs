//! The rules one by one, and a model of a cluster that rotates its keys while messages are lost and nodes come and go.

use proptest::prelude::*;

use super::*;

fn secret(byte: u8) -> Secret {
    Secret::new([byte; 32]).expect("long enough")
}

fn id(byte: u8) -> KeyId {
    secret(byte).id()
}

fn ring(keys: &[u8]) -> Ring {
    Ring::new(secret(keys[0]), keys[1..].iter().copied().map(secret)).expect("at most four keys")
}

fn name(at: usize) -> NodeName {
    NodeName::new(&format!("n{at}")).expect("valid")
}

fn owed(to: usize, key: u8, before: u32) -> Owed {
    Owed { to: name(to), key: id(key), before }
}

fn peers<const N: usize>(rings: [&Ring; N]) -> Peers {
    rings.iter().enumerate().map(|(at, ring)| (name(at), Some(ring.shown()))).collect()
}

#[test]
fn a_key_is_used_only_once_all_live_members_show_it() {
    let (mut a, b, mut c) = (ring(&[1]), ring(&[1, 2]), ring(&[1]));
    assert_eq!(a.use_key(id(2), &peers([&b, &c])), Err(KeyringError::Unknown { key: id(2) }));
    a.install(secret(2)).expect("room");
    let mut unheard = peers([&b, &c]);
    let refused = |members: Vec<NodeName>| Err(KeyringError::NotHeld { key: id(2), members });
    assert_eq!(a.use_key(id(2), &unheard), refused(vec![name(1)]));
    unheard.insert(name(1), None);
    assert_eq!(a.use_key(id(2), &unheard), refused(vec![name(1)]));
    assert_eq!(a.primary().0, id(1), "a refused step changes nothing");
    c.install(secret(2)).expect("room");
    assert_eq!(a.use_key(id(2), &peers([&b, &c])), Ok(()));
    assert!(c.observe(&peers([&a, &b])) && c.primary().0 == id(2), "others follow what is shown");
    assert!(!c.observe(&peers([&a, &b])), "and that once");
}

#[test]
fn a_key_is_removed_only_once_no_live_member_seals_with_it() {
    let (mut a, mut b) = (ring(&[1, 2]), ring(&[1, 2]));
    assert_eq!(a.remove(id(1), &peers([&b])), Err(KeyringError::IsPrimary { key: id(1) }));
    assert_eq!(a.remove(id(3), &peers([&b])), Err(KeyringError::Unknown { key: id(3) }));
    a.use_key(id(2), &peers([&b])).expect("all hold it");
    let refused = Err(KeyringError::InUse { key: id(1), members: vec![name(0)] });
    assert_eq!(a.remove(id(1), &peers([&b])), refused);
    assert_eq!(a.remove(id(1), &Peers::from([(name(0), None)])), refused);
    b.observe(&peers([&a]));
    assert_eq!(a.remove(id(1), &peers([&b])), Ok(()));
    assert!(a.secret(id(1)).is_none());
    b.observe(&peers([&a]));
    assert!(b.secret(id(1)).is_none(), "the tombstone is followed");
    for ring in [&mut a, &mut b] {
        assert_eq!(ring.install(secret(1)), Err(KeyringError::Removed { key: id(1) }));
    }
}

#[test]
fn a_removed_key_is_kept_while_a_member_that_is_known_needs_it() {
    let (mut a, b, mut joiner) = (ring(&[2, 1]), ring(&[2, 1]), ring(&[1]));
    a.remove(id(1), &peers([&b])).expect("nobody has it");
    let mut c = ring(&[2, 1]);
    c.observe(&peers([&a, &joiner]));
    assert!(c.secret(id(1)).is_some(), "the joiner could talk to nobody else");
    assert_eq!(c.owed(&name(9), &peers([&joiner])), [owed(0, 2, 0)]);
    joiner.install(secret(2)).expect("room");
    joiner.observe(&peers([&a, &c]));
    assert_eq!(joiner.primary().0, id(2), "its own key was removed, and this is what the others have");
    c.observe(&peers([&a, &joiner]));
    assert!(c.secret(id(1)).is_none() && joiner.secret(id(1)).is_none());
}

#[test]
fn the_last_key_that_two_nodes_share_is_not_removed() {
    let (mut a, b) = (ring(&[2, 4]), ring(&[1, 4]));
    assert_eq!(a.remove(id(4), &peers([&b])), Err(KeyringError::InUse { key: id(4), members: vec![name(0)] }));
    assert_eq!(a.owed(&name(1), &peers([&b])), [owed(0, 2, 0)]);
    a.install(secret(1)).expect("room");
    assert_eq!(a.remove(id(4), &peers([&b])), Ok(()));
}

#[test]
fn the_lowest_name_that_has_a_key_to_give_sends_it_first() {
    let (mut a, b, stranger) = (ring(&[1]), ring(&[1, 2]), ring(&[1]));
    assert_eq!(b.owed(&name(1), &peers([&a])), [], "what a node was told to trust is its own affair");
    a.install(secret(2)).expect("room");
    let others = Peers::from([(name(2), Some(stranger.shown())), (name(3), None)]);
    assert_eq!(a.owed(&name(1), &others), [owed(2, 2, 0)], "who has not said what it holds waits");
    let mut lower = others.clone();
    lower.insert(name(0), Some(a.shown()));
    assert_eq!(a.owed(&name(1), &lower), [owed(2, 2, 1)], "the lower one may believe the member down");
    let many = |givers: usize| {
        let mut peers: Peers = (0..givers).map(|at| (name(at), Some(a.shown()))).collect();
        peers.insert(name(99), Some(stranger.shown()));
        a.owed(&name(98), &peers).len()
    };
    assert_eq!([many(GIVERS - 1), many(GIVERS)], [1, 0], "that many do not err together");
}

#[test]
fn the_ring_and_what_is_shown_are_bounded() {
    let mut full = ring(&[1, 2, 3, 4]);
    assert_eq!(full.install(secret(5)), Err(KeyringError::Full));
    assert_eq!(full.install(secret(4)), Ok(id(4)));
    assert!(Ring::new(secret(1), (2..=5).map(secret)).is_err());
    let mut long = ring(&[1]);
    for byte in 2..100 {
        long.install(secret(byte)).expect("room");
        long.remove(id(byte), &Peers::new()).expect("not the primary");
    }
    assert_eq!(long.shown().removed.len(), MAX_REMOVED);
    let bytes = long.shown().to_bytes();
    assert!(bytes.len() <= crate::MAX_VALUE_BYTES);
    assert_eq!(Shown::from_bytes(&bytes), Some(long.shown()));
    let mut more = long.shown();
    more.removed.insert(Choice { at: 0, key: id(1) });
    assert_eq!(Shown::from_bytes(&more.to_bytes()), None);
}

#[test]
fn golden_bytes() {
    let shown = Shown {
        primary: Choice { at: 300, key: KeyId([1, 2, 3, 4]) },
        held: BTreeMap::from([(KeyId([1, 2, 3, 4]), true)]),
        removed: BTreeSet::from([Choice { at: 2, key: KeyId([5, 6, 7, 8]) }]),
    };
    let hex: String = shown.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "ac02010203040101020304010102 05060708".replace(' ', ""), "the format of `.keys`: docs/WIRE.md");
}

/// What may happen to a cluster of [`NODES`] names.
#[derive(Debug, Clone)]
enum Event {
    /// One node hears what another shows, and what that one knows of the others.
    Hear(usize, usize),
    /// A node sends one of the secrets that it owes.
    Send(usize, usize),
    Install(usize, u8),
    Use(usize, u8),
    Remove(usize, u8),
    /// A node starts, or starts again, with these keys, and joins through another.
    Start(usize, usize, Vec<u8>),
}

const NODES: usize = 5;
const KEYS: u8 = 4;

fn event() -> impl Strategy<Value = Event> {
    let (node, key) = (0..NODES, 1..=KEYS);
    prop_oneof![
        12 => (node.clone(), node.clone()).prop_map(|(a, b)| Event::Hear(a, b)),
        6 => (node.clone(), 0..8usize).prop_map(|(a, n)| Event::Send(a, n)),
        2 => (node.clone(), key.clone()).prop_map(|(a, k)| Event::Install(a, k)),
        3 => (node.clone(), key.clone()).prop_map(|(a, k)| Event::Use(a, k)),
        3 => (node.clone(), key.clone()).prop_map(|(a, k)| Event::Remove(a, k)),
        1 => (node.clone(), node, prop::collection::vec(key, 1..=2)).prop_map(|(a, b, k)| Event::Start(a, b, k)),
    ]
}

/// A life of a node, and what it knows of the others' lives: which they are, and what they have shown it.
#[derive(Clone)]
struct Host {
    life: u64,
    ring: Ring,
    /// How often what it shows has changed.
    version: u64,
    known: BTreeMap<usize, (u64, u64, Option<Shown>)>,
}

impl Host {
    fn peers(&self) -> Peers {
        self.known.iter().map(|(at, (_, _, shown))| (name(*at), shown.clone())).collect()
    }

    fn settle(&mut self) -> bool {
        let peers = self.peers();
        let changed = self.ring.observe(&peers);
        self.version += u64::from(changed);
        changed
    }

    fn learn(&mut self, own: usize, at: usize, news: (u64, u64, Option<Shown>)) -> bool {
        let is_news = at != own && self.known.get(&at).is_none_or(|known| (known.0, known.1) < (news.0, news.1));
        if is_news {
            self.known.insert(at, news);
        }
        is_news
    }
}

#[derive(Default)]
struct World {
    hosts: BTreeMap<usize, Host>,
    lives: u64,
    /// Who has chosen a key that a member which it knows had not shown to hold.
    too_soon: Option<usize>,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        for at in 0..3 {
            world.start(at, 0, &[1]);
        }
        world.spread();
        world
    }

    /// Two nodes can connect if their rings have a key in common.
    fn connects(&self, a: &Ring, b: usize) -> bool {
        self.hosts.get(&b).is_some_and(|b| b.ring.secrets().any(|(id, _)| a.secret(id).is_some()))
    }

    fn hear(&mut self, to: usize, from: usize) -> bool {
        if to == from || !self.hosts.get(&to).is_some_and(|to| self.connects(&to.ring, from)) {
            return false;
        }
        let teller = self.hosts[&from].clone();
        let Some(host) = self.hosts.get_mut(&to) else { return false };
        let mut news = host.learn(to, from, (teller.life, teller.version, Some(teller.ring.shown())));
        for (at, told) in teller.known {
            news |= host.learn(to, at, told);
        }
        news | host.settle()
    }

    /// Sends one of the owed secrets, if the other is there and can be reached.
    fn send(&mut self, from: usize, which: usize) -> bool {
        let Some(host) = self.hosts.get(&from) else { return false };
        let owed = host.ring.owed(&name(from), &host.peers());
        let Some(Owed { to, key, .. }) = owed.get(which % owed.len().max(1)) else { return false };
        let secret = host.ring.secret(*key).expect("it is owed").clone();
        let to = (0..NODES).find(|at| name(*at) == *to).expect("a node");
        if !self.connects(&host.ring, to) {
            return false;
        }
        let Some(to) = self.hosts.get_mut(&to) else { return false };
        let before = to.ring.shown();
        let _ = to.ring.install(secret);
        let changed = to.ring.shown() != before;
        to.version += u64::from(changed);
        changed
    }

    /// A node starts if whom it joins through trusts it. What only its life before knew is told first: a membership that
    /// loses a member together with the only one that knows of it is not what this model is about.
    fn start(&mut self, at: usize, through: usize, keys: &[u8]) {
        let ring = ring(keys);
        if !self.hosts.is_empty() && (at == through || !self.connects(&ring, through)) {
            return;
        }
        self.spread();
        if !self.hosts.is_empty() && !self.connects(&ring, through) {
            return;
        }
        self.lives += 1;
        self.hosts.insert(at, Host { life: self.lives, ring, version: 1, known: BTreeMap::new() });
        let life = self.lives;
        self.hear(at, through);
        if let Some(host) = self.hosts.get_mut(&through) {
            host.learn(through, at, (life, 0, None));
        }
    }

    /// All messages arrive until there is nothing new.
    fn spread(&mut self) {
        let mut news = true;
        for _ in 0..200 {
            if !news {
                return;
            }
            news = false;
            for a in 0..NODES {
                for b in 0..NODES {
                    news |= self.hear(a, b);
                }
                for which in 0..8 {
                    news |= self.send(a, which);
                }
            }
        }
        panic!("the rules go round in circles");
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Hear(a, b) => {
                self.hear(a, b);
            }
            Event::Send(a, which) => {
                self.send(a, which);
            }
            Event::Start(a, b, keys) => self.start(a, b, &keys),
            Event::Install(a, key) => self.step(a, |ring, _| ring.install(secret(key)).map(|_| ())),
            Event::Use(a, key) => {
                let mut held = true;
                self.step(a, |ring, peers| {
                    ring.use_key(id(key), peers)?;
                    held = peers.values().all(|shown| shown.as_ref().is_some_and(|s| s.held.contains_key(&id(key))));
                    Ok(())
                });
                self.too_soon = self.too_soon.or((!held).then_some(a));
            }
            Event::Remove(a, key) => self.step(a, |ring, peers| ring.remove(id(key), peers)),
        }
    }

    fn step(&mut self, at: usize, step: impl FnOnce(&mut Ring, &Peers) -> Result<(), KeyringError>) {
        let Some(host) = self.hosts.get_mut(&at) else { return };
        let peers = host.peers();
        if step(&mut host.ring, &peers).is_ok() {
            host.version += 1;
        }
    }

    /// Nobody has given up a key with which a member seals as far as it knows, and nobody stands without a key.
    fn check(&self, before: &BTreeMap<usize, Host>) -> Result<(), String> {
        if let Some(at) = self.too_soon {
            return Err(format!("n{at} seals under a key that not all have shown to hold"));
        }
        for (at, host) in &self.hosts {
            let (primary, _) = host.ring.primary();
            let Some(earlier) = before.get(at).filter(|earlier| earlier.life == host.life) else { continue };
            let shown = host.known.values().filter_map(|known| known.2.as_ref()).map(|shown| shown.primary.key);
            for needed in shown.chain([primary]) {
                if earlier.ring.secret(needed).is_some() && host.ring.secret(needed).is_none() {
                    return Err(format!("n{at} gave up {needed}"));
                }
            }
        }
        Ok(())
    }

    /// When all has arrived, everybody opens what everybody seals.
    fn check_at_rest(&mut self) -> Result<(), String> {
        self.spread();
        for (at, host) in &self.hosts {
            if host.known.len() + 1 != self.hosts.len() {
                return Err(format!("n{at} is cut off"));
            }
            let (primary, _) = host.ring.primary();
            for (other, peer) in &self.hosts {
                if peer.ring.secret(primary).is_none() {
                    return Err(format!("n{other} does not open what n{at} seals"));
                }
            }
        }
        Ok(())
    }
}

fn run(events: Vec<Event>) -> Result<(), String> {
    let mut world = World::new();
    for event in events {
        let before = world.hosts.clone();
        world.apply(event);
        world.check(&before)?;
    }
    world.check_at_rest()
}

/// Each of two keys is chosen on one node and removed on another, and the one that is left is not held by all.
#[test]
fn what_is_left_is_sent_to_who_lacks_it_before_it_is_used() {
    use Event::{Install, Remove, Start, Use};
    let begun = [Install(0, 3), Install(0, 4), Start(3, 0, vec![3])];
    let crossed = [Remove(1, 3), Remove(3, 4), Use(1, 4), Use(2, 3)];
    run(begun.into_iter().chain(crossed).collect()).expect("all open what all seal");
}

fn runs() -> ProptestConfig {
    ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(runs())]
    #[test]
    fn no_live_member_is_ever_cut_off(events in prop::collection::vec(event(), 1..60)) {
        run(events).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn what_is_shown_may_be_anything(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(shown) = Shown::from_bytes(&bytes) {
            let all = Peers::from([(name(0), Some(shown))]);
            let mut ring = ring(&[1, 2]);
            ring.observe(&all);
            let _ = ring.owed(&name(1), &all);
            let _ = ring.use_key(id(2), &all);
            prop_assert!(ring.secret(ring.primary().0).is_some());
        }
    }
}

#[cfg(feature = "mutations")]
mod mutants {
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::mutation::set;

    fn is_caught(mutation: Mutation) -> bool {
        set(Some(mutation));
        let mut runner = TestRunner::new(runs());
        let result =
            runner.run(&prop::collection::vec(event(), 1..60), |events| run(events).map_err(TestCaseError::fail));
        set(None);
        result.is_err()
    }

    #[test]
    fn the_model_catches_keys_that_are_used_unheld_or_dropped_at_once() {
        assert!(is_caught(Mutation::UsesKeysUnheld));
        assert!(is_caught(Mutation::DropsKeysAtOnce));
    }
}
