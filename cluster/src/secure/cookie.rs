//! First contact: a sender that has no window here shows that it is there before anything of it is acted upon.
//!
//! ```text
//! sender                                      receiver, which has no window for it
//!   | -- gossip, counter c ----------------------> |   opens: held, not acted upon
//!   | <-- challenge: c, cookie ------------------- |
//!   | -- echo: c, cookie ------------------------> |   a window is opened, the held message released
//! ```
//!
//! A datagram that opens may still be old: recorded long ago, taken, and its window forgotten since. The cookie is a MAC,
//! under a key that lives for seconds, of the sender's boot, the counter, the address it came from and the number of this
//! challenge. So whoever brings it back has read the challenge now, at that address, and all that it has sent before has
//! a lesser counter than the echo. What was held is released only if it is also above the sender's floor: it is then
//! certain that it was not taken before. See docs/adr/0017-cookies.md for the argument.
//!
//! A challenge is never larger than what it answers, and what does not open gets none.
//!
//! A challenge cites a counter of the one that it asks, and so it is itself as new as that datagram. If that was sent
//! after the last window was forgotten here, the challenger needs no challenge in turn.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use ring::hmac;
use zeroize::Zeroizing;

use super::envelope::{Authentic, DropReason, KIND_BYTES, Kind, OVERHEAD_BYTES, Opener, Sealer};
use super::ring::{KeyId, Ring};
use crate::formation::ClusterId;
use crate::identity::Boot;

/// HMAC-SHA256, truncated: nobody guesses 128 bits in the seconds that a key lives.
const COOKIE_BYTES: usize = 16;
/// What a challenge and its echo say: the counter that is in question, and the cookie.
pub(crate) const BODY_BYTES: usize = 8 + COOKIE_BYTES;
/// How large a challenge is, and what it answers at least.
const CHALLENGE_BYTES: usize = OVERHEAD_BYTES + KIND_BYTES + BODY_BYTES;
/// How long a key makes cookies. They are taken for as long again, so a message is held for at most twice this: far more
/// than a round trip, and less than it takes until a member is suspected of being down.
const KEY_LIFE: Duration = Duration::from_secs(2);
/// How many messages are held: 77 KB. A thousand nodes that all meet this one within a few seconds fill a part of it.
const MAX_HELD: usize = 64;
/// How often one message that is held is challenged: its own copy may come from elsewhere, some more than once.
const MAX_CHALLENGES_OF_ONE: u32 = 4;
/// How many messages of one sender are held: it can hardly say more in one round trip.
const MAX_HELD_OF_ONE: usize = 8;
/// How many challenges, and how many echoes, are sent in a second at most: 20 kB/s of each. Nobody who may be asked needs
/// more: every member of a cluster of a thousand is met once, within some seconds.
const MAX_REPLIES_PER_SECOND: u32 = 256;

/// What a datagram brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<'a> {
    /// A message of gossip from a known sender.
    Gossip(Boot, &'a [u8]),
    /// A step towards knowing a sender.
    Met(Met),
}

/// What a step of a first contact brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) from: Boot,
    /// What it had sent before, and may be acted upon now.
    pub(crate) released: Vec<Box<[u8]>>,
    /// What is to be sent back to where the datagram came from.
    pub(crate) reply: Option<Vec<u8>>,
    /// How many messages that were held are lost, of whomever.
    pub(crate) lost: usize,
}

/// A message that waits for its sender's echo.
struct Held {
    boot: Boot,
    counter: u64,
    /// The number of its challenge. No two cookies are the same, so an echo that was recorded opens nothing.
    serial: u64,
    /// Which key makes its cookies.
    key: u64,
    /// How often it was challenged.
    challenged: u32,
    message: Box<[u8]>,
}

/// Takes the datagrams of a node.
pub(crate) struct Reception {
    opener: Opener,
    keys: Keys,
    held: VecDeque<Held>,
    serial: u64,
    challenges: Allowance,
    echoes: Allowance,
    /// The counter of our newest datagram when a window was forgotten last.
    sent_before_forgetting: u64,
}

impl Reception {
    /// Opens what `opener` can, and makes cookies of this randomness.
    pub(crate) fn new(opener: Opener, rng: StdRng) -> Self {
        Self {
            opener,
            keys: Keys::new(rng),
            held: VecDeque::new(),
            serial: 0,
            challenges: Allowance::default(),
            echoes: Allowance::default(),
            sent_before_forgetting: 0,
        }
    }

    /// From now on only what was sealed with the cluster's id is taken.
    pub(crate) fn charter(&mut self, id: ClusterId) {
        self.opener.charter(id);
    }

    /// From now on what is sealed under a key of this ring is taken, and nothing else.
    pub(crate) fn set_ring(&mut self, ring: &Ring) {
        self.opener.set_ring(ring);
    }

    /// Takes a datagram that came from this address, in place. Answers are sealed with `sealer`.
    ///
    /// # Errors
    /// Why it must be dropped. It has then no effect and gets no answer.
    pub(crate) fn take<'a>(
        &mut self,
        now: Duration,
        from: SocketAddr,
        datagram: &'a mut [u8],
        sealer: &Sealer,
    ) -> Result<Taken<'a>, DropReason> {
        let size = datagram.len();
        let Authentic { boot, key_id, counter, is_known, kind, body } = self.opener.open(datagram)?;
        let mut met = Met { from: boot, released: Vec::new(), reply: None, lost: 0 };
        match kind {
            Kind::Gossip if is_known => return Ok(Taken::Gossip(boot, body)),
            Kind::Gossip => {
                met.lost += self.expire(now);
                // Whoever sends one datagram again and again must not use up what others need.
                let copies = self.held.iter().find(|held| held.boot == boot && held.counter == counter);
                let is_enough = copies.is_some_and(|held| held.challenged >= MAX_CHALLENGES_OF_ONE);
                if size < CHALLENGE_BYTES || is_enough || !self.challenges.take(now) {
                    return Err(DropReason::Unproven);
                }
                let (held, lost) = self.hold(boot, counter, body);
                met.lost += lost;
                self.held[held].challenged += 1;
                let body = said(counter, self.keys.cookie(&self.held[held], from).ok_or(DropReason::Unproven)?);
                met.reply = Some(sealer.seal_kind(boot, Kind::Challenge, &body, 0));
            }
            Kind::Challenge => {
                let (cited, _) = heard(body)
                    .filter(|(cited, _)| (1..=sealer.newest()).contains(cited))
                    .ok_or(DropReason::Malformed)?;
                met.lost += self.expire(now);
                if !is_known && cited > self.sent_before_forgetting {
                    met.released = self.admit(boot, key_id, counter, sealer);
                }
                if self.echoes.take(now) {
                    met.reply = Some(sealer.seal_kind(boot, Kind::Echo, body, 0));
                }
            }
            // More than one of its messages was challenged, and the window is open already.
            Kind::Echo if is_known => {}
            Kind::Echo => {
                let (cited, cookie) = heard(body).ok_or(DropReason::Malformed)?;
                met.lost += self.expire(now);
                let held = self.held.iter().find(|held| held.boot == boot && held.counter == cited);
                let ours = held.and_then(|held| self.keys.cookie(held, from));
                if !ours.is_some_and(|ours| is_same(&ours, &cookie)) || counter <= cited {
                    return Err(DropReason::Unproven);
                }
                met.released = self.admit(boot, key_id, counter, sealer);
            }
        }
        Ok(Taken::Met(met))
    }

    /// Opens a window for a sender of which `counter` is new, and returns what it had said before.
    fn admit(&mut self, boot: Boot, key_id: KeyId, counter: u64, sealer: &Sealer) -> Vec<Box<[u8]>> {
        if self.opener.admit(boot, key_id, counter) {
            self.sent_before_forgetting = sealer.newest();
        }
        let (its, others) = std::mem::take(&mut self.held).into_iter().partition::<VecDeque<_>, _>(|h| h.boot == boot);
        self.held = others;
        its.into_iter().filter(|held| self.opener.record(boot, held.counter)).map(|held| held.message).collect()
    }

    /// Holds a message. Returns where it is, and how many others are lost for it.
    fn hold(&mut self, boot: Boot, counter: u64, message: &[u8]) -> (usize, usize) {
        // Its own copy may come from elsewhere, before it or after it: each gets a challenge, and any echo will do.
        if let Some(held) = self.held.iter().position(|held| held.boot == boot && held.counter == counter) {
            return (held, 0);
        }
        let of_one = self.held.iter().filter(|held| held.boot == boot).count();
        let oldest = |held: &Held| of_one < MAX_HELD_OF_ONE || held.boot == boot;
        let is_full = of_one >= MAX_HELD_OF_ONE || self.held.len() >= MAX_HELD;
        let lost = if is_full { self.held.iter().position(oldest).and_then(|at| self.held.remove(at)) } else { None };
        self.serial += 1;
        let (serial, key) = (self.serial, self.keys.newest);
        self.held.push_back(Held { boot, counter, serial, key, challenged: 0, message: message.into() });
        (self.held.len() - 1, usize::from(lost.is_some()))
    }

    /// Drops what has waited too long. Returns how many those were.
    fn expire(&mut self, now: Duration) -> usize {
        self.keys.renew(now);
        let before = self.held.len();
        let keys = &self.keys;
        self.held.retain(|held| keys.has(held.key));
        before - self.held.len()
    }
}

/// The bytes of a challenge or an echo.
fn said(counter: u64, cookie: [u8; COOKIE_BYTES]) -> [u8; BODY_BYTES] {
    let mut body = [0; BODY_BYTES];
    body[..8].copy_from_slice(&counter.to_be_bytes());
    body[8..].copy_from_slice(&cookie);
    body
}

/// What a challenge or an echo says.
fn heard(body: &[u8]) -> Option<(u64, [u8; COOKIE_BYTES])> {
    let (counter, cookie) = body.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*counter), cookie.try_into().ok()?))
}

/// Compares without telling by its duration where they differ.
fn is_same(ours: &[u8; COOKIE_BYTES], theirs: &[u8; COOKIE_BYTES]) -> bool {
    std::hint::black_box(ours.iter().zip(theirs).fold(0, |differs, (a, b)| differs | (a ^ b))) == 0
}

/// The keys that make cookies: the one in use and the one before.
struct Keys {
    rng: StdRng,
    /// The number of the key in use: how many lives of keys have passed.
    newest: u64,
    key: hmac::Key,
    before: Option<hmac::Key>,
}

impl Keys {
    fn new(mut rng: StdRng) -> Self {
        let key = Self::draw(&mut rng);
        Self { rng, newest: 0, key, before: None }
    }

    fn draw(rng: &mut StdRng) -> hmac::Key {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        hmac::Key::new(hmac::HMAC_SHA256, &*bytes)
    }

    fn renew(&mut self, now: Duration) {
        let number = (now.as_millis() / KEY_LIFE.as_millis()) as u64;
        if number > self.newest {
            let last = std::mem::replace(&mut self.key, Self::draw(&mut self.rng));
            self.before = (number == self.newest + 1).then_some(last);
            self.newest = number;
        }
    }

    fn has(&self, number: u64) -> bool {
        self.of(number).is_some()
    }

    fn of(&self, number: u64) -> Option<&hmac::Key> {
        if number == self.newest { Some(&self.key) } else { self.before.as_ref().filter(|_| number + 1 == self.newest) }
    }

    /// The cookie for the sender of what is held, at this address; `None` if it has waited too long.
    fn cookie(&self, held: &Held, from: SocketAddr) -> Option<[u8; COOKIE_BYTES]> {
        let mut context = hmac::Context::with_key(self.of(held.key)?);
        context.update(&held.boot.to_bytes());
        context.update(&held.counter.to_be_bytes());
        context.update(&held.serial.to_be_bytes());
        let ip = match from.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        context.update(&ip.octets());
        context.update(&from.port().to_be_bytes());
        let tag = context.sign();
        tag.as_ref().first_chunk().copied()
    }
}

/// So many in a second, and no more.
#[derive(Default)]
struct Allowance {
    second: u64,
    used: u32,
}

impl Allowance {
    fn take(&mut self, now: Duration) -> bool {
        if now.as_secs() > self.second {
            *self = Self { second: now.as_secs(), used: 0 };
        }
        let is_allowed = self.used < MAX_REPLIES_PER_SECOND;
        self.used += u32::from(is_allowed);
        is_allowed
    }
}

#[cfg(test)]
mod tests;
