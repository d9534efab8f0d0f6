//! What replicas say to each other, and its bytes.
//!
//! Requests and answers begin with the format and a tag; a request then names its sender. See `docs/WIRE.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::roster::{Ack, MAX_TAG_BYTES, Marks, Row, Rows};
use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;
use crate::sketch::Symbol;
use crate::store::Delta;
use crate::{ReplicaId, VersionVector};

/// The most symbols in one answer: 260 kB.
pub(super) const MAX_SYMBOLS: usize = 16_384;

/// What two replicas compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Summary {
    /// The hash of the context.
    pub(super) context: u64,
    /// The sum of the hashes of the live dots.
    pub(super) live: u64,
    /// How many those are.
    pub(super) count: u64,
    /// The hash of the versions of the rows.
    pub(super) rows: u64,
}

/// Who holds replicas, as far as two of them see that differently; empty otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct News {
    /// Which versions of the rows the sender has.
    pub(super) versions: BTreeMap<ReplicaId, u64>,
    /// Those that the receiver is known to lack, as many as a message should have.
    pub(super) rows: Rows,
    pub(super) forgotten: BTreeSet<ReplicaId>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Request<D> {
    /// What has changed at `origin`; to be passed on.
    Push { origin: ReplicaId, delta: D },
    /// A part of what you lack; not to be passed on.
    Chunk { delta: D },
    /// Do we hold the same?
    Probe(Summary),
    /// I hold this: send me what lies above, if you have more.
    Exchange { context: VersionVector },
    /// We know different replicas: these are mine. Comes before an exchange, so that who is new knows of all others when
    /// it hears of anything.
    Meet(News),
    /// The coded symbols of your live dots.
    Symbols { salt: u64, from: u64, count: usize },
    /// You hold dots with these hashes, and I do not: those that I have heard of are dead.
    Resolve { salt: u64, hashes: Vec<u64>, context: VersionVector },
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Answer {
    Done,
    /// Come back later.
    Busy,
    /// To a probe: no. Context and news are there if they differ.
    Differs {
        summary: Summary,
        context: Option<VersionVector>,
        news: News,
    },
    /// To a meeting.
    News(News),
    /// To symbols, taken at one moment together with what they are symbols of.
    Symbols {
        live: u64,
        context: VersionVector,
        symbols: Vec<Symbol>,
    },
    /// You will never be heard again under this id. What you have above this context is not merged here.
    Gone {
        context: VersionVector,
    },
}

fn encode_summary(to: &mut Encoder, summary: &Summary) {
    to.fixed(summary.context);
    to.fixed(summary.live);
    to.number(summary.count);
    to.fixed(summary.rows);
}

fn decode_summary(from: &mut Decoder<'_>) -> Result<Summary, DecodeError> {
    Ok(Summary { context: from.fixed()?, live: from.fixed()?, count: from.number()?, rows: from.fixed()? })
}

fn encode_option(to: &mut Encoder, dots: Option<&VersionVector>) {
    to.byte(u8::from(dots.is_some()));
    if let Some(dots) = dots {
        to.dots(dots);
    }
}

fn decode_option(from: &mut Decoder<'_>) -> Result<Option<VersionVector>, DecodeError> {
    Ok(if flag(from)? { Some(from.dots()?) } else { None })
}

fn encode_news(to: &mut Encoder, News { versions, rows, forgotten }: &News) {
    to.number(versions.len() as u64);
    for (replica, version) in versions {
        to.replica(*replica);
        to.number(*version);
    }
    to.number(forgotten.len() as u64);
    forgotten.iter().for_each(|replica| to.replica(*replica));
    to.number(rows.len() as u64);
    for (replica, row) in rows {
        to.replica(*replica);
        to.number(row.version);
        to.number(row.tag.len() as u64);
        to.bytes(&row.tag);
        to.number(row.acks.len() as u64);
        for (actor, ack) in &row.acks {
            to.replica(*actor);
            to.byte(u8::from(ack.retired));
            to.dots(&ack.dots);
        }
        to.byte(u8::from(row.marks.is_some()));
        if let Some(Marks { heard, live }) = &row.marks {
            to.dots(heard);
            to.dots(live);
        }
    }
}

fn flag(from: &mut Decoder<'_>) -> Result<bool, DecodeError> {
    match from.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Tag),
    }
}

fn decode_news(from: &mut Decoder<'_>) -> Result<News, DecodeError> {
    let mut versions = BTreeMap::new();
    for _ in 0..from.length()? {
        let (replica, version) = (from.replica()?, from.number()?);
        if versions.last_key_value().is_some_and(|(last, _)| *last >= replica) {
            return Err(DecodeError::Order);
        }
        versions.insert(replica, version);
    }
    let mut forgotten = BTreeSet::new();
    for _ in 0..from.length()? {
        let replica = from.replica()?;
        if forgotten.last().is_some_and(|last| *last >= replica) {
            return Err(DecodeError::Order);
        }
        forgotten.insert(replica);
    }
    let mut rows = Rows::new();
    for _ in 0..from.length()? {
        let (replica, version) = (from.replica()?, from.number()?);
        let length = from.length()?;
        if length > MAX_TAG_BYTES {
            return Err(DecodeError::Limit);
        }
        let mut row = Row { version, tag: from.bytes(length)?.to_vec(), ..Row::default() };
        for _ in 0..from.length()? {
            let (actor, retired, dots) = (from.replica()?, flag(from)?, from.dots()?);
            let in_order = row.acks.last_key_value().is_none_or(|(last, _)| *last < actor);
            if !in_order || dots.iter().any(|(of, _)| of != actor) {
                return Err(DecodeError::Order);
            }
            row.acks.insert(actor, Ack { dots, retired });
        }
        if flag(from)? {
            row.marks = Some(Marks { heard: from.dots()?, live: from.dots()? });
        }
        if rows.last_key_value().is_some_and(|(last, _)| *last >= replica) {
            return Err(DecodeError::Order);
        }
        rows.insert(replica, row);
    }
    Ok(News { versions, rows, forgotten })
}

impl<D: Delta> Request<D> {
    pub(super) fn encode(&self, from: ReplicaId) -> Vec<u8> {
        let mut to = Encoder::new();
        to.byte(match self {
            Self::Push { .. } => 0,
            Self::Chunk { .. } => 1,
            Self::Probe(_) => 2,
            Self::Exchange { .. } => 3,
            Self::Symbols { .. } => 4,
            Self::Resolve { .. } => 5,
            Self::Meet(_) => 6,
        });
        to.replica(from);
        match self {
            Self::Push { origin, delta } => {
                to.replica(*origin);
                delta.encode_part(&mut to);
            }
            Self::Chunk { delta } => delta.encode_part(&mut to),
            Self::Probe(summary) => encode_summary(&mut to, summary),
            Self::Exchange { context } => to.dots(context),
            Self::Meet(news) => encode_news(&mut to, news),
            Self::Symbols { salt, from, count } => {
                to.fixed(*salt);
                to.number(*from);
                to.number(*count as u64);
            }
            Self::Resolve { salt, hashes, context } => {
                to.fixed(*salt);
                to.number(hashes.len() as u64);
                hashes.iter().for_each(|hash| to.fixed(*hash));
                to.dots(context);
            }
        }
        to.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<(ReplicaId, Self), DecodeError> {
        let mut from = Decoder::new(bytes)?;
        let tag = from.byte()?;
        let sender = from.replica()?;
        let request = match tag {
            0 => Self::Push { origin: from.replica()?, delta: D::decode_checked(&mut from)? },
            1 => Self::Chunk { delta: D::decode_checked(&mut from)? },
            2 => Self::Probe(decode_summary(&mut from)?),
            3 => Self::Exchange { context: from.dots()? },
            6 => Self::Meet(decode_news(&mut from)?),
            4 => {
                let (salt, at, count) = (from.fixed()?, from.number()?, from.number()?);
                match usize::try_from(count) {
                    Ok(count @ 1..=MAX_SYMBOLS) => Self::Symbols { salt, from: at, count },
                    _ => return Err(DecodeError::Limit),
                }
            }
            5 => {
                let salt = from.fixed()?;
                let count = from.length()?;
                let hashes = (0..count).map(|_| from.fixed()).collect::<Result<_, _>>()?;
                Self::Resolve { salt, hashes, context: from.dots()? }
            }
            _ => return Err(DecodeError::Tag),
        };
        from.finish()?;
        Ok((sender, request))
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::new();
        match self {
            Self::Done => to.byte(0),
            Self::Busy => to.byte(1),
            Self::Differs { summary, context, news } => {
                to.byte(2);
                encode_summary(&mut to, summary);
                encode_option(&mut to, context.as_ref());
                encode_news(&mut to, news);
            }
            Self::Symbols { live, context, symbols } => {
                to.byte(3);
                to.fixed(*live);
                to.dots(context);
                to.number(symbols.len() as u64);
                symbols.iter().for_each(|symbol| symbol.encode(&mut to));
            }
            Self::Gone { context } => {
                to.byte(4);
                to.dots(context);
            }
            Self::News(news) => {
                to.byte(5);
                encode_news(&mut to, news);
            }
        }
        to.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder::new(bytes)?;
        let answer = match from.byte()? {
            0 => Self::Done,
            1 => Self::Busy,
            2 => Self::Differs {
                summary: decode_summary(&mut from)?,
                context: decode_option(&mut from)?,
                news: decode_news(&mut from)?,
            },
            3 => {
                let (live, context, count) = (from.fixed()?, from.dots()?, from.length()?);
                if count > MAX_SYMBOLS {
                    return Err(DecodeError::Limit);
                }
                let symbols = (0..count).map(|_| Symbol::decode(&mut from)).collect::<Result<_, _>>()?;
                Self::Symbols { live, context, symbols }
            }
            4 => Self::Gone { context: from.dots()? },
            5 => Self::News(decode_news(&mut from)?),
            _ => return Err(DecodeError::Tag),
        };
        from.finish()?;
        Ok(answer)
    }
}

/// Reads a request about a type with deltas `D`, and returns the bytes that it is written with, which are those: for tests of
/// the decoder.
///
/// # Errors
/// They are not a request.
pub fn decode_request<D: Delta>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (from, request) = Request::<D>::decode(bytes)?;
    Ok(request.encode(from))
}

/// Reads an answer, and returns the bytes that it is written with, which are those: for tests of the decoder.
///
/// # Errors
/// They are not an answer.
pub fn decode_answer(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Ok(Answer::decode(bytes)?.encode())
}
