//! foca's messages as bytes: `postcard`, with an eye on what passes.
//!
//! - foca takes an update about its own name under another boot for a mistake and declares that identity down. Here
//!   the newest boot of a name wins, so such an update must never reach foca: it fails to decode, and [`Watch`]
//!   remembers who superseded us.
//! - foca says when a member goes up or down, but neither when it is suspected nor when it refutes. It does encode
//!   every update that it has applied, to pass it on, and so what it knows of each member can be followed here: in
//!   [`Watch::known`], where one look is enough, while foca walks over a list. `Core::validate` compares the two.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use serde::{Deserialize, Serialize};

use super::handle::{Brief, Handle, Known};
use crate::buckets::{NameKey, Row as _};
use crate::identity::{Boot, NameError};

/// What the codec has seen. foca keeps its codec to itself, so the core and it share this.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

#[derive(Default)]
pub(super) struct Seen {
    /// Whose seal the datagram in hand was under.
    pub(super) sealer: Option<Boot>,
    /// A newer boot of our name that was heard of.
    pub(super) newer: Option<Boot>,
    /// What foca knows of the others, and ourselves as we were when we last said so.
    pub(super) known: Known,
    /// What has changed in `known`.
    pub(super) changes: Vec<Change>,
    /// The table of node state has taken a hint.
    pub(super) hinted: bool,
}

/// What was known of a member and what is known of it now.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) before: Option<Member<Handle>>,
    pub(crate) after: Option<Member<Handle>>,
}

impl Watch {
    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Takes down what is known of a member now.
    pub(super) fn note(&mut self, member: Member<Handle>) {
        if self.known.get(member.key()) != Some(&member) {
            let before = self.known.set(member.clone());
            self.changes.push(Change { before, after: Some(member) });
        }
    }

    pub(super) fn forget(&mut self, key: NameKey) {
        if let Some(before) = self.known.remove(key) {
            self.changes.push(Change { before: Some(before), after: None });
        }
    }
}

/// Encodes for foca.
pub(super) struct WireCodec {
    own: NameKey,
    boot: Boot,
    watch: Watch,
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("a newer boot of this node's name")]
    Superseded,
    #[error("from a boot that was superseded")]
    Stale,
    #[error("not from whoever sealed it")]
    Forged,
    #[error("no more room")]
    Full,
    #[error(transparent)]
    Postcard(#[from] postcard::Error),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl WireCodec {
    pub(super) fn new(own: &Handle, watch: Watch) -> Self {
        Self { own: own.key(), boot: own.node.boot, watch }
    }

    /// A newer boot of our own name ends us.
    fn check(&self, seen: &mut Seen, id: &Handle) -> Result<(), CodecError> {
        if id.key() == self.own && id.node.boot > self.boot {
            seen.newer = seen.newer.max(Some(id.node.boot));
            return Err(CodecError::Superseded);
        }
        Ok(())
    }
}

fn encode(value: &impl Serialize, mut buf: impl BufMut) -> Result<(), CodecError> {
    // Three identities of the longest name fit; what does not fit is an error, never a panic.
    let mut scratch = [0; 512];
    let bytes = postcard::to_slice(value, &mut scratch)?;
    if buf.remaining_mut() < bytes.len() {
        return Err(CodecError::Full);
    }
    buf.put_slice(bytes);
    Ok(())
}

/// Decodes a value from the front of a message. Returns it and its length.
fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, usize), CodecError> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes)?;
    Ok((value, bytes.len() - rest.len()))
}

fn resolve(header: Header<Brief<'_>>, known: &Known) -> Result<Header<Handle>, NameError> {
    let message = match header.message {
        Message::Ping(number) => Message::Ping(number),
        Message::Ack(number) => Message::Ack(number),
        Message::PingReq { target, probe_number } => Message::PingReq { target: target.resolve(known)?, probe_number },
        Message::IndirectPing { origin, probe_number } => {
            Message::IndirectPing { origin: origin.resolve(known)?, probe_number }
        }
        Message::IndirectAck { target, probe_number } => {
            Message::IndirectAck { target: target.resolve(known)?, probe_number }
        }
        Message::ForwardedAck { origin, probe_number } => {
            Message::ForwardedAck { origin: origin.resolve(known)?, probe_number }
        }
        Message::Announce => Message::Announce,
        Message::Feed => Message::Feed,
        Message::Gossip => Message::Gossip,
        Message::Broadcast => Message::Broadcast,
        Message::TurnUndead => Message::TurnUndead,
    };
    let (src, dst) = (header.src.resolve(known)?, header.dst.resolve(known)?);
    Ok(Header { src, src_incarnation: header.src_incarnation, dst, message })
}

/// A member as it stands in a message.
#[derive(Deserialize)]
struct BriefMember<'a> {
    #[serde(borrow)]
    id: Brief<'a>,
    incarnation: u16,
    state: State,
}

impl foca::Codec<Handle> for WireCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Handle>, buf: impl BufMut) -> Result<(), CodecError> {
        encode(header, buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Handle>, CodecError> {
        let mut seen = self.watch.lock();
        let (header, length) = decode(buf.chunk())?;
        let header = resolve(header, &seen.known)?;
        buf.advance(length);
        let source = &header.src;
        if seen.sealer != Some(source.node.boot) {
            return Err(CodecError::Forged);
        }
        if seen.known.get(source.key()).is_some_and(|known| known.id().node.boot > source.node.boot) {
            return Err(CodecError::Stale);
        }
        self.check(&mut seen, source)?;
        Ok(header)
    }

    /// foca encodes each update that it has applied, and members as it knows them.
    fn encode_member(&mut self, member: &Member<Handle>, buf: impl BufMut) -> Result<(), CodecError> {
        if member.key() != self.own {
            self.watch.lock().note(member.clone());
        }
        encode(member, buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Handle>, CodecError> {
        let mut seen = self.watch.lock();
        let (BriefMember { id, incarnation, state }, length) = decode(buf.chunk())?;
        let id = id.resolve(&seen.known)?;
        buf.advance(length);
        self.check(&mut seen, &id)?;
        Ok(Member::new(id, incarnation, state))
    }
}
