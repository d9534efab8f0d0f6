//! Plain SWIM: members of `foca` 2, driven as its examples do it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Config, Foca, NoCustomBroadcast, OwnedNotification, PeriodicParams, PostcardCodec, Timer,
};
use polity::{Preset, Timings};
use polity_sim::lean::net::{Member, Output};
use polity_sim::lean::{Host, addr, host_of};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::{Library, Sight, Start};

/// `foca` alone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Swim {
    /// As `Config::new_lan` recommends for the size.
    Lan,
    /// With our times: how often who is probed, how long a probe and a suspicion last, how often news is gossiped and how
    /// many times each piece. What it asks others for is as rare as `new_lan` recommends.
    OurTimes,
}

impl Swim {
    fn config(self, hosts: usize) -> Config {
        let size = u32::try_from(hosts).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let lan = Config::new_lan(size);
        match self {
            Self::Lan => lan,
            Self::OurTimes => {
                let times = Timings::preset(Preset::Lan);
                let log2 = usize::BITS - hosts.leading_zeros();
                let copies = u8::try_from(3 * log2).unwrap_or(u8::MAX).clamp(6, 16);
                Config {
                    probe_period: times.probe_period,
                    probe_rtt: times.probe_timeout,
                    max_transmissions: NonZeroU8::new(copies).expect("at least 6"),
                    suspect_to_down_after: times.suspicion.mul_f64(((hosts as f64).log10() / 2.0).max(1.0)),
                    periodic_gossip: Some(PeriodicParams {
                        frequency: times.gossip_interval,
                        num_members: NonZeroUsize::new(3).expect("not 0"),
                    }),
                    ..lan
                }
            }
        }
    }
}

/// Who a member is: where, and how often it came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Id {
    addr: SocketAddr,
    life: u32,
}

impl foca::Identity for Id {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life + 1, ..*self })
    }

    fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

fn id(host: Host) -> Id {
    Id { addr: addr(host), life: 0 }
}

/// One member.
pub(crate) struct Swimmer {
    foca: Foca<Id, PostcardCodec, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    timers: BTreeMap<(Duration, u64), Timer<Id>>,
    timers_set: u64,
    outputs: VecDeque<Output<Self>>,
}

impl Library for Swim {
    type Member = Swimmer;

    fn start(self, start: Start) -> Swimmer {
        let rng = StdRng::seed_from_u64(start.seed);
        let mut foca = Foca::new(id(start.host), self.config(start.hosts), rng, PostcardCodec);
        let mut runtime = AccumulatingRuntime::new();
        if start.knowing {
            let others = start.others().map(|host| foca::Member::alive(id(host)));
            foca.apply_many(others, false, &mut runtime).expect("they are others");
        } else {
            for seed in start.seeds() {
                foca.announce(Id { addr: seed, life: 0 }, &mut runtime).expect("an announcement fits into a datagram");
            }
        }
        let (timers, outputs) = (BTreeMap::new(), VecDeque::new());
        let mut member = Swimmer { foca, runtime, timers, timers_set: 0, outputs };
        member.drain(Duration::ZERO);
        member
    }
}

impl Swimmer {
    /// Carries out what the library has asked of its runtime.
    fn drain(&mut self, now: Duration) {
        while let Some((to, datagram)) = self.runtime.to_send() {
            self.outputs.push_back(Output::Datagram { to: to.addr, bytes: datagram.len(), datagram });
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers_set += 1;
            self.timers.insert((now + after, self.timers_set), timer);
        }
        while let Some(told) = self.runtime.to_notify() {
            let host = |id: &Id| host_of(id.addr).expect("all members are on hosts");
            let sight = match told {
                OwnedNotification::MemberUp(id) => Sight::Up(host(&id)),
                OwnedNotification::MemberDown(id) => Sight::Down(host(&id)),
                OwnedNotification::Rejoin(_) => Sight::Rejoined,
                _ => continue,
            };
            self.outputs.push_back(Output::Note(sight));
        }
    }
}

impl Member for Swimmer {
    type Datagram = Bytes;
    type Request = ();
    type Answer = ();
    type Note = Sight;

    fn handle_datagram(&mut self, now: Duration, datagram: Bytes) {
        // What is wrong with a datagram is nothing to stop for.
        drop(self.foca.handle_data(&datagram, &mut self.runtime));
        self.drain(now);
    }

    fn handle_request(&mut self, _: Duration, (): ()) -> Option<((), usize)> {
        None
    }

    fn handle_answer(&mut self, _: Duration, _: u64, _: Option<()>) {}

    fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    fn handle_timeout(&mut self, now: Duration) {
        // Those that became due while the process stood still come in the order that the library asks for.
        let later = self.timers.split_off(&(now, u64::MAX));
        let mut due: Vec<Timer<Id>> = std::mem::replace(&mut self.timers, later).into_values().collect();
        due.sort();
        for timer in due {
            drop(self.foca.handle_timer(timer, &mut self.runtime));
            self.drain(now);
        }
    }

    fn poll_output(&mut self) -> Option<Output<Self>> {
        self.outputs.pop_front()
    }
}
