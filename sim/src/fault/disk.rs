//! A disk fails, or loses or tears in a crash what it had called durable. A node writes when it starts, so the process is
//! killed and started around the fault.
//!
//! The disk of a store fails while the process runs, and the process is killed and started when it is well again. Or it damages
//! something, which is found by the next start.

use std::time::Duration;

use polity::DiskFault;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Class, Family, Fault, Stage, Step, StoreFault, Timeline, ms};
use crate::history::Host;

/// What the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// Reads and writes fail.
    Error,
    /// A crash leaves half of what was written.
    Torn,
    /// A crash loses it.
    Lost,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    host: Host,
    kind: Kind,
}

/// What the disk of a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoreKind {
    /// No room is left.
    Full,
    /// A sync fails.
    Unsynced,
    /// It has damaged what was written.
    Damaged,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreDisk {
    host: Host,
    kind: StoreKind,
}

pub(super) const CLASSES: &[Class] = &[
    class("disk-error", "a disk fails while a process starts", |rng, stage| drawn(Kind::Error, rng, stage)),
    class("disk-torn", "a crash tears what was written", |rng, stage| drawn(Kind::Torn, rng, stage)),
    class("disk-lost", "a crash loses what was written", |rng, stage| drawn(Kind::Lost, rng, stage)),
    class("store-full", "the disk of a store has no room left", |rng, stage| drawn_store(StoreKind::Full, rng, stage)),
    class("store-unsynced", "a sync of a store fails", |rng, stage| drawn_store(StoreKind::Unsynced, rng, stage)),
    class("store-damaged", "a process finds the disk of its store damaged", |rng, stage| {
        drawn_store(StoreKind::Damaged, rng, stage)
    }),
];

const fn class(name: &'static str, about: &'static str, draw: fn(&mut StdRng, &Stage) -> (Fault, Duration)) -> Class {
    Class { name, about, moves: true, draw }
}

fn drawn(kind: Kind, rng: &mut StdRng, stage: &Stage) -> (Fault, Duration) {
    (Fault::Disk(Disk { host: stage.mortal, kind }), ms(rng, 500..=12_000))
}

fn drawn_store(kind: StoreKind, rng: &mut StdRng, stage: &Stage) -> (Fault, Duration) {
    (Fault::Store(StoreDisk { host: stage.mortal, kind }), ms(rng, 500..=8_000))
}

impl Family for StoreDisk {
    fn class(&self) -> &'static str {
        match self.kind {
            StoreKind::Full => "store-full",
            StoreKind::Unsynced => "store-unsynced",
            StoreKind::Damaged => "store-damaged",
        }
    }

    fn what(&self) -> String {
        let does = match self.kind {
            StoreKind::Full => "has no room left",
            StoreKind::Unsynced => "fails to sync",
            StoreKind::Damaged => "is damaged",
        };
        format!("the disk of the store of {} {does}", self.host)
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let host = self.host;
        let fault = match self.kind {
            StoreKind::Full => StoreFault::Full,
            StoreKind::Unsynced => StoreFault::Sync,
            StoreKind::Damaged => {
                let found = [Step::Crash(host, false), Step::PutAside(host)].map(|step| (Duration::ZERO, step));
                return found.into_iter().chain([(lasts, Step::Start(host))]).collect();
            }
        };
        vec![
            (Duration::ZERO, Step::Store(host, fault)),
            (lasts, Step::Store(host, StoreFault::None)),
            // An engine that has failed takes nothing more until it is opened anew.
            (lasts, Step::Crash(host, false)),
            (lasts, Step::Start(host)),
        ]
    }

    fn disturbs(&self) -> bool {
        false
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Store(self.clone()))
    }
}

impl Family for Disk {
    fn class(&self) -> &'static str {
        match self.kind {
            Kind::Error => "disk-error",
            Kind::Torn => "disk-torn",
            Kind::Lost => "disk-lost",
        }
    }

    fn what(&self) -> String {
        let does = match self.kind {
            Kind::Error => "fails while it starts again",
            Kind::Torn => "tears in a crash what it wrote",
            Kind::Lost => "loses in a crash what it wrote",
        };
        format!("the disk of {} {does}", self.host)
    }

    fn timeline(&self, lasts: Duration) -> Timeline {
        let fault = match self.kind {
            Kind::Error => DiskFault::Fails,
            Kind::Torn => DiskFault::Tears,
            Kind::Lost => DiskFault::Forgets,
        };
        let host = self.host;
        let mut timeline = vec![
            (Duration::ZERO, Step::Disk(host, fault)),
            (Duration::ZERO, Step::Crash(host, false)),
            (lasts / 4, Step::Start(host)),
        ];
        if self.kind != Kind::Error {
            // What it wrote when it started is what this crash takes.
            timeline.push((lasts * 3 / 4, Step::Crash(host, false)));
        }
        timeline.push((lasts, Step::Disk(host, DiskFault::None)));
        timeline.push((lasts, Step::Start(host)));
        timeline
    }

    fn disturbs(&self) -> bool {
        // A node that cannot start is not back in time.
        self.kind == Kind::Error
    }

    fn hosts(&self) -> Vec<Host> {
        vec![self.host]
    }

    fn without(&self, gone: &dyn Fn(Host) -> bool) -> Option<Fault> {
        (!gone(self.host)).then(|| Fault::Disk(self.clone()))
    }
}
