//! What a client has sent at once: its requests are answered in order, and some are under way together.
//!
//! Two requests may be if they are for different keys, or only read: then nothing that their client is answered can depend
//! on which of them was first. Whoever else looks may see them take effect in another order, as in a Redis cluster. A request
//! for several keys, or for the session, has everything before it done first, and everything after it waits.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesOrdered, StreamExt as _};

use crate::commands::{Access, Answer, Command, Handler};
use crate::reply::Reply;
use crate::request::Request;
use crate::session::{Session, Shared};

/// How many requests of one client may be under way. An answer has 3 MiB at most but for a few that are alone, so a client has
/// at most 48 MiB of answers in memory.
const MAX_UNDER_WAY: usize = 16;
/// How many bytes of answers are gathered before they are written.
pub(crate) const FLUSH_BYTES: usize = 256 << 10;

/// What a request that is under way does, and to which key.
type Footprint<'a> = (Access, &'a Bytes);

fn conflicts(under_way: &VecDeque<Footprint<'_>>, (access, key): Footprint<'_>) -> bool {
    under_way.iter().any(|(other, of)| *of == key && (*other == Access::Writes || access == Access::Writes))
}

/// Answers requests from the front, at least the first; as many as there are, unless the answers become large or the session is
/// over. Returns how many.
pub(crate) async fn answer(session: &mut Session, requests: &[Request], output: &mut BytesMut) -> usize {
    let shared = session.shared.clone();
    let mut under_way = UnderWay::default();
    let mut taken = 0;
    for request in requests {
        if session.is_over || output.len() >= FLUSH_BYTES {
            break;
        }
        taken += 1;
        match step(&shared, request) {
            Step::Together(footprint, answer) => {
                while under_way.footprints.len() >= MAX_UNDER_WAY || conflicts(&under_way.footprints, footprint) {
                    under_way.finish_first(session, output).await;
                }
                under_way.footprints.push_back(footprint);
                under_way.answers.push_back(answer);
            }
            Step::Alone(answer) => {
                under_way.finish_all(session, output).await;
                answer.await.encode(session.version, output);
            }
            Step::AtOnce(handler) => {
                under_way.finish_all(session, output).await;
                handler(session, request).encode(session.version, output);
            }
            Step::Refused(reply) => {
                under_way.finish_all(session, output).await;
                reply.encode(session.version, output);
            }
        }
    }
    under_way.finish_all(session, output).await;
    taken
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
    async fn finish_first(&mut self, session: &Session, output: &mut BytesMut) {
        if let Some(reply) = self.answers.next().await {
            self.footprints.pop_front();
            reply.encode(session.version, output);
        }
    }

    async fn finish_all(&mut self, session: &Session, output: &mut BytesMut) {
        while !self.footprints.is_empty() {
            self.finish_first(session, output).await;
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
