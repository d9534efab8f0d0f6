//! Faults: what befalls a world, as data.
//!
//! A [`Fault`] holds everything that was drawn for it, so that a run can be written into a file, replayed, and shrunk by
//! leaving faults out. What it does over time is a list of [`Step`]s, which a [`World`](crate::world::World) carries out.
//!
//! To add a family of faults, write its file, and name it in [`Fault`] and in [`classes`]; only [`outage`] is drawn by its
//! scenario alone.

pub mod clock;
pub mod clog;
pub mod crash;
pub mod disk;
pub mod membership;
pub mod outage;
pub mod partition;
pub mod pause;
pub mod weather;

use std::time::Duration;

use polity::DiskFault;
use polity::kv::engine::faulty::Fault as StoreFault;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

pub use clock::ClockFault;
pub use clog::Clog;
pub use crash::Crash;
pub use disk::{Disk, StoreDisk};
pub use membership::{Join, Leave, Weigh};
pub use outage::Outage;
pub use partition::Partition;
pub use pause::Pause;
pub use weather::Weather;

use crate::history::Host;
use crate::network::Effect;

/// A directed link.
pub type Link = (Host, Host);

/// A fault with everything that was drawn for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Links are cut.
    Partition(Partition),
    /// Datagrams are lost, late, doubled, out of order or damaged.
    Weather(Weather),
    /// Links are stopped one by one, and released in another order.
    Clog(Clog),
    /// A process is killed, once or repeatedly.
    Crash(Crash),
    /// Several processes are killed at once.
    Outage(Outage),
    /// A process stands still, and goes on as if nothing was.
    Pause(Pause),
    /// A wall clock is wrong.
    Clock(ClockFault),
    /// A disk fails, forgets or tears what was written, around a restart.
    Disk(Disk),
    /// A node leaves and comes back.
    Leave(Leave),
    /// A node joins that was not there before.
    Join(Join),
    /// A node has another weight for some time.
    Weigh(Weigh),
    /// The disk of a store fails while it runs.
    Store(StoreDisk),
}

/// What a fault does to the world at one moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// From now on this fault does this to the links, and nothing else.
    Links(Vec<Effect>),
    /// The process is killed, and its disk wiped or not.
    Crash(Host, bool),
    /// A process is started if there is none. One that is still leaving is killed first.
    Start(Host),
    /// The node is asked to leave within this time.
    Leave(Host, Duration),
    /// The process stands still.
    Pause(Host),
    /// It goes on.
    Resume(Host),
    /// The wall clock is so many milliseconds off, and gains so many parts per million.
    Clock(Host, i64, i64),
    /// The node has this weight from now on.
    Weigh(Host, u16),
    /// The disk does this from now on.
    Disk(Host, DiskFault),
    /// The disk of the store does this from now on, if it has one.
    Store(Host, StoreFault),
    /// The disk of the store has damaged something: what was on it is put aside, but for what can be read.
    PutAside(Host),
}

/// A step and when it is taken, counted from the beginning of its fault.
pub type Timeline = Vec<(Duration, Step)>;

/// What a family of faults knows of its faults.
trait Family {
    /// The name of its class: one of [`classes`], or `outage`.
    fn class(&self) -> &'static str;

    /// What happens, in a few words for a person.
    fn what(&self) -> String;

    /// What it does from its beginning on, if it lasts so long. The last step undoes whatever is left.
    fn timeline(&self, lasts: Duration) -> Timeline;

    /// Whether members may fail to see each other in time while it lasts.
    fn disturbs(&self) -> bool;

    /// The hosts that it names.
    fn hosts(&self) -> Vec<Host>;

    /// The same without those hosts; `None` if nothing is left of it.
    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault>;
}

impl Fault {
    fn family(&self) -> &dyn Family {
        match self {
            Self::Partition(fault) => fault,
            Self::Weather(fault) => fault,
            Self::Clog(fault) => fault,
            Self::Crash(fault) => fault,
            Self::Outage(fault) => fault,
            Self::Pause(fault) => fault,
            Self::Clock(fault) => fault,
            Self::Disk(fault) => fault,
            Self::Leave(fault) => fault,
            Self::Join(fault) => fault,
            Self::Weigh(fault) => fault,
            Self::Store(fault) => fault,
        }
    }

    /// The name of its class: one of [`classes`], or `outage`.
    #[must_use]
    pub fn class(&self) -> &'static str {
        self.family().class()
    }

    /// What happens, in a few words for a person.
    #[must_use]
    pub fn what(&self) -> String {
        self.family().what()
    }

    /// What it does from its beginning on, if it lasts so long. The last step undoes whatever is left.
    #[must_use]
    pub fn timeline(&self, lasts: Duration) -> Timeline {
        self.family().timeline(lasts)
    }

    /// Whether members may fail to see each other in time while it lasts.
    #[must_use]
    pub fn disturbs(&self) -> bool {
        self.family().disturbs()
    }

    /// The hosts that it names.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        self.family().hosts()
    }

    /// The same without the hosts that are gone; `None` if nothing is left of it.
    #[must_use]
    pub fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        self.family().without(gone)
    }
}

/// For whom faults are drawn.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The hosts that are members from the beginning.
    pub hosts: Vec<Host>,
    /// Those that join later.
    pub late: Vec<Host>,
    /// The only one whose memory may be destroyed before the stores have settled: with more, the store promises nothing.
    pub mortal: Host,
    /// How many of the first hosts are seeds.
    pub seeds: u8,
}

impl Stage {
    fn any(&self, rng: &mut StdRng) -> Host {
        self.hosts[rng.random_range(0..self.hosts.len())]
    }
}

/// A kind of fault that can be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// What it is called.
    pub name: &'static str,
    /// What happens, in a few words.
    pub about: &'static str,
    /// Whether the members change: they join, leave or are restarted.
    pub moves: bool,
    /// Draws one, and how long it lasts.
    pub draw: fn(&mut StdRng, &Stage) -> (Fault, Duration),
}

/// All classes.
pub fn classes() -> impl Iterator<Item = &'static Class> {
    let families = [
        partition::CLASSES,
        weather::CLASSES,
        clog::CLASSES,
        crash::CLASSES,
        pause::CLASSES,
        clock::CLASSES,
        disk::CLASSES,
        membership::CLASSES,
    ];
    families.into_iter().flatten()
}

/// A time between these, in milliseconds.
fn ms(rng: &mut StdRng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// Hosts in words: `n0 n2`.
fn names(hosts: impl IntoIterator<Item = Host>) -> String {
    hosts.into_iter().map(|host| host.to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    fn stage() -> Stage {
        Stage { hosts: (0..5).map(Host).collect(), late: vec![Host(5)], mortal: Host(3), seeds: 3 }
    }

    fn drawn() -> impl Iterator<Item = (&'static Class, Fault, Duration)> {
        let mut rng = StdRng::seed_from_u64(1);
        classes().flat_map(|class| (0..40).map(move |_| class)).map(move |class| {
            let (fault, lasts) = (class.draw)(&mut rng, &stage());
            (class, fault, lasts)
        })
    }

    #[test]
    fn there_are_many_classes_and_no_two_of_one_name() {
        let names: BTreeSet<_> = classes().map(|class| class.name).collect();
        assert_eq!(names.len(), classes().count());
        assert!(names.len() >= 12);
    }

    #[test]
    fn a_fault_belongs_to_the_class_that_drew_it_and_survives_a_file() {
        for (class, fault, lasts) in drawn() {
            assert_eq!(fault.class(), class.name);
            assert!(lasts > Duration::ZERO, "{fault:?}");
            assert!(!fault.what().is_empty() && !fault.hosts().is_empty(), "{fault:?}");
            let text = serde_json::to_string(&fault).expect("a fault encodes");
            assert_eq!(serde_json::from_str::<Fault>(&text).expect("it decodes"), fault, "{text}");
        }
    }

    #[test]
    fn memory_is_destroyed_on_the_mortal_host_only() {
        for (_, fault, lasts) in drawn() {
            for (_, step) in fault.timeline(lasts) {
                if let Step::Crash(host, _) | Step::Leave(host, _) = step {
                    assert_eq!(host, stage().mortal, "{fault:?}");
                }
            }
        }
    }

    #[test]
    fn whatever_was_done_is_undone_in_the_end() {
        for (_, fault, lasts) in drawn() {
            let timeline = fault.timeline(lasts);
            assert!(timeline.is_sorted_by_key(|(at, _)| *at), "{timeline:?}");
            assert!(timeline.iter().all(|(at, _)| *at <= lasts), "{timeline:?}");
            let (mut links, mut down, mut paused) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
            let (mut clocks, mut disks) = (BTreeSet::new(), BTreeSet::new());
            let (mut stores, mut weights) = (BTreeSet::new(), BTreeSet::new());
            for (_, step) in &timeline {
                match step {
                    Step::Links(effects) => links.clone_from(effects),
                    Step::Crash(host, _) | Step::Leave(host, _) => drop(down.insert(*host)),
                    Step::Start(host) => drop(down.remove(host)),
                    Step::Pause(host) => drop(paused.insert(*host)),
                    Step::Resume(host) => drop(paused.remove(host)),
                    Step::Clock(host, 0, 0) => drop(clocks.remove(host)),
                    Step::Clock(host, ..) => drop(clocks.insert(*host)),
                    Step::Disk(host, DiskFault::None) => drop(disks.remove(host)),
                    Step::Disk(host, _) => drop(disks.insert(*host)),
                    Step::PutAside(host) => assert!(down.contains(host), "{timeline:?}"),
                    Step::Store(host, StoreFault::None) => drop(stores.remove(host)),
                    Step::Store(host, _) => drop(stores.insert(*host)),
                    Step::Weigh(host, 100) => drop(weights.remove(host)),
                    Step::Weigh(host, _) => drop(weights.insert(*host)),
                }
            }
            assert!(links.is_empty() && down.is_empty() && paused.is_empty(), "{fault:?}: {timeline:?}");
            assert!(clocks.is_empty() && disks.is_empty(), "{fault:?}: {timeline:?}");
            assert!(stores.is_empty() && weights.is_empty(), "{fault:?}: {timeline:?}");
        }
    }

    #[test]
    fn a_fault_without_its_hosts_is_none_and_never_names_one_that_is_gone() {
        for (_, fault, _) in drawn() {
            assert_eq!(fault.without(&|_| true), None, "{fault:?}");
            assert_eq!(fault.without(&|_| false), Some(fault.clone()));
            for gone in (0..6).map(Host) {
                if let Some(rest) = fault.without(&|host| host == gone) {
                    assert!(!rest.hosts().contains(&gone), "{rest:?}");
                }
            }
        }
    }
}
