//! foca's messages as bytes: `postcard`, with the node's own name watched for.
//!
//! foca takes an update about its own name under another boot for a mistake and declares that identity down. Here the
//! newest boot of a name wins, so such an update must never reach foca: it fails to decode, and [`Newer`]
//! remembers who superseded us.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut};
use foca::{Header, Member};
use serde::{Serialize, de::DeserializeOwned};

use crate::identity::{Boot, Identity, NodeId};

/// A newer boot of our name that was heard of. foca keeps its codec to itself, so the two share this.
pub(super) type Newer = Arc<Mutex<Option<Boot>>>;

/// Encodes for foca and watches for a newer boot of the node's own name.
pub(super) struct WireCodec {
    own: NodeId,
    newer: Newer,
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("a newer boot of this node's name")]
    Superseded,
    #[error("no more room")]
    Full,
    #[error(transparent)]
    Postcard(#[from] postcard::Error),
}

impl WireCodec {
    pub(super) fn new(own: NodeId, newer: Newer) -> Self {
        Self { own, newer }
    }

    fn watch(&mut self, id: &Identity) -> Result<(), CodecError> {
        if id.node.name == self.own.name && id.node.boot > self.own.boot {
            let mut newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
            *newer = (*newer).max(Some(id.node.boot));
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

fn decode<T: DeserializeOwned>(mut buf: impl Buf) -> Result<T, CodecError> {
    let (value, rest) = postcard::take_from_bytes::<T>(buf.chunk())?;
    let taken = buf.chunk().len() - rest.len();
    buf.advance(taken);
    Ok(value)
}

impl foca::Codec<Identity> for WireCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), CodecError> {
        encode(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        let header: Header<Identity> = decode(buf)?;
        self.watch(&header.src)?;
        Ok(header)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), CodecError> {
        encode(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        let member: Member<Identity> = decode(buf)?;
        self.watch(member.id())?;
        Ok(member)
    }
}
