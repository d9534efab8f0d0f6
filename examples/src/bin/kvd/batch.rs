//! What a client has sent at once: its requests are answered in order, and some are under way together.
//!
//! Two requests may be if they are for different keys, or only read: then nothing that their client is answered can depend
//! on which of them was first. Whoever else looks may see them take effect in another order, as in a Redis cluster. A request
//! for several keys, or for the session, has everything before it done first, and everything after it waits.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt as _};

use crate::commands::{Access, Answer, Command, Handler};
use crate::reply::{Reply, Version};
use crate::request::Request;
use crate::session::{Session, Shared};

/// How many requests of one client may be under way. Each reads one value, of 3 MiB at most, and what it is answered shares the
/// memory of that, however often it asks for the same. Those that read more are alone, and take 16 MiB. So a client has at most
/// 48 MiB of values in memory.
const MAX_UNDER_WAY: usize = 16;
/// How many bytes of answers are gathered before they are written: then no more requests are begun, and of what is there the bytes
/// are made piece by piece.
pub(crate) const FLUSH_BYTES: usize = 256 << 10;

/// What a request that is under way does, and to which key.
type Footprint<'a> = (Access, &'a Bytes);

fn conflicts(under_way: &VecDeque<Footprint<'_>>, (access, key): Footprint<'_>) -> bool {
    under_way.iter().any(|(other, of)| *of == key && (*other == Access::Writes || access == Access::Writes))
}

/// What requests are answered, in their order.
#[derive(Default)]
pub(crate) struct Answered {
    /// How many requests that were.
    pub(crate) taken: usize,
    /// Each in the version of the protocol that was spoken then.
    pub(crate) replies: Vec<(Version, Reply)>,
    /// How long the replies are together.
    bytes: usize,
}

impl Answered {
    fn add(&mut self, version: Version, reply: Reply) {
        self.bytes += reply.bytes();
        self.replies.push((version, reply));
    }

    fn is_enough(&self) -> bool {
        self.bytes >= FLUSH_BYTES
    }
}

/// Answers requests from the front, at least the first; as many as there are, unless the answers become large or the session is
/// over.
pub(crate) async fn answer(session: &mut Session, requests: &[Request]) -> Answered {
    let shared = session.shared.clone();
    let mut under_way = UnderWay::default();
    let mut answered = Answered::default();
    for request in requests {
        let step = step(&shared, request);
        while under_way.is_in_the_way_of(&step) {
            under_way.finish_first(session, &mut answered).await;
        }
        // Counted when it would begin: what it had to wait for may have been large.
        if session.is_over || answered.is_enough() {
            break;
        }
        answered.taken += 1;
        match step {
            Step::Together(footprint, answer) => {
                under_way.footprints.push_back(footprint);
                under_way.answers.push_back(answer);
            }
            Step::Alone(answer) => answered.add(session.version, answer.await),
            Step::AtOnce(handler) => {
                let reply = handler(session, request);
                answered.add(session.version, reply);
            }
            Step::Refused(reply) => answered.add(session.version, reply),
        }
    }
    while !under_way.footprints.is_empty() {
        under_way.finish_first(session, &mut answered).await;
    }
    answered
}

/// How a request is carried out.
enum Step<'a> {
    Together(Footprint<'a>, Answer<'a>),
    Alone(Answer<'a>),
    AtOnce(fn(&mut Session, &[Bytes]) -> Reply),
    Refused(Reply),
}

fn step<'a>(shared: &'a Shared, request: &'a Request) -> Step<'a> {
    match Command::of(request) {
        Err(refused) => Step::Refused(refused),
        Ok(command) => match command.handler {
            Handler::Session(handler) => Step::AtOnce(handler),
            Handler::Store(handler) => {
                let answer = handler(&shared.keyspace, request);
                match command.only_key(request) {
                    Some(key) => Step::Together((command.access, key), answer),
                    None => Step::Alone(answer),
                }
            }
        },
    }
}

/// The requests that are under way, in their order.
#[derive(Default)]
struct UnderWay<'a> {
    answers: FuturesOrdered<Answer<'a>>,
    footprints: VecDeque<Footprint<'a>>,
}

impl UnderWay<'_> {
    /// Whether something has to be finished before this begins.
    fn is_in_the_way_of(&self, step: &Step<'_>) -> bool {
        match step {
            Step::Together(footprint, _) => {
                self.footprints.len() >= MAX_UNDER_WAY || conflicts(&self.footprints, *footprint)
            }
            Step::Alone(_) | Step::AtOnce(_) | Step::Refused(_) => !self.footprints.is_empty(),
        }
    }

    async fn finish_first(&mut self, session: &Session, answered: &mut Answered) {
        if let Some(reply) = self.answers.next().await {
            self.footprints.pop_front();
            answered.add(session.version, reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_together_unless_one_writes_what_the_other_touches() {
        let (k, l) = (Bytes::from_static(b"k"), Bytes::from_static(b"l"));
        let under_way = VecDeque::from([(Access::Reads, &k), (Access::Writes, &l)]);
        assert!(!conflicts(&under_way, (Access::Reads, &k)));
        assert!(conflicts(&under_way, (Access::Writes, &k)));
        assert!(conflicts(&under_way, (Access::Reads, &l)));
        assert!(conflicts(&under_way, (Access::Writes, &l)));
        assert!(!conflicts(&under_way, (Access::Writes, &Bytes::from_static(b"m"))));
    }
}
