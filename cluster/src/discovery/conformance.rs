//! What every [`Discovery`] must do, as a test of any: [`check`].
//!
//! The test needs a [`World`] in which it can say where members are, and break and stall whatever the implementation
//! asks. Those of this library pass it, and so should yours:
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::net::SocketAddr;
//! use std::sync::{Arc, Mutex};
//! use polity_cluster::discovery::conformance::{World, check};
//! use polity_cluster::discovery::{Context, Discovery, MAX_FOUND, from_fn};
//! use polity_cluster::{BoxFuture, Env, Secret};
//!
//! /// A registry in memory. It cannot fail and answers at once.
//! #[derive(Default)]
//! struct Registry(Arc<Mutex<BTreeSet<SocketAddr>>>);
//!
//! impl World for Registry {
//!     fn discovery(&self) -> Arc<dyn Discovery> {
//!         let members = self.0.clone();
//!         Arc::new(from_fn(move || Ok(members.lock().unwrap().iter().copied().take(MAX_FOUND).collect())))
//!     }
//!     fn context(&self) -> Context {
//!         let secret = Secret::new([7; 32]).unwrap();
//!         Context::new(Env::real(), "shop", secret, "127.0.0.1:7946".parse().unwrap())
//!     }
//!     fn place<'a>(&'a mut self, members: &'a BTreeSet<SocketAddr>) -> BoxFuture<'a, ()> {
//!         *self.0.lock().unwrap() = members.clone();
//!         Box::pin(async {})
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! check(Registry::default()).await.unwrap();
//! # });
//! ```

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{Context, Discovery, DiscoveryError, MAX_FOUND};
use crate::ground::BoxFuture;

/// How long one answer may take in a world that does not stall: what a node gives a discovery.
const ANSWER_WITHIN: Duration = super::asker::FIND_WITHIN;
/// How long one poll may take: far more than any that does not block needs on a busy machine.
const POLL_WITHIN: Duration = Duration::from_secs(1);
/// How many ask at once.
const AT_ONCE: usize = 8;

/// Where an implementation looks for members, in the hands of the test.
pub trait World: Send {
    /// The implementation, made for this world. Called once.
    fn discovery(&self) -> Arc<dyn Discovery>;

    /// For whom it is asked. Its own address may be found or not; nothing depends on it.
    fn context(&self) -> Context;

    /// From now on members are at these addresses and nowhere else.
    fn place<'a>(&'a mut self, members: &'a BTreeSet<SocketAddr>) -> BoxFuture<'a, ()>;

    /// The most members that can be placed in this world.
    fn capacity(&self) -> usize {
        MAX_FOUND * 2
    }

    /// Whether nobody at all can be placed. To a resolver, for instance, a name without addresses is a failure.
    fn can_be_empty(&self) -> bool {
        true
    }

    /// From now on nothing can be found out (`true`), or all can again (`false`). Returns whether this world can do that.
    fn fail(&mut self, fails: bool) -> bool {
        let _ = fails;
        false
    }

    /// From now on questions are not answered (`true`), or are again (`false`). Returns whether this world can do that.
    fn stall(&mut self, stalls: bool) -> bool {
        let _ = stalls;
        false
    }
}

/// What an implementation did not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
#[non_exhaustive]
pub struct Breach {
    /// Which rule it breaks.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
}

type Answer = Result<BTreeSet<SocketAddr>, DiscoveryError>;

/// Tests an implementation. Must be called in a tokio runtime with time and IO, and needs about a second at most for each
/// question that takes as long as is allowed.
///
/// # Errors
/// The first rule that is broken.
pub async fn check(world: impl World) -> Result<(), Breach> {
    let (discovery, context) = (world.discovery(), world.context());
    let mut test = Test { world, discovery, context };
    test.finds_what_is_there_and_follows_it().await?;
    test.survives_failures().await?;
    test.is_bounded().await?;
    test.can_be_asked_at_once_and_given_up().await?;
    test.does_not_block().await
}

struct Test<W> {
    world: W,
    discovery: Arc<dyn Discovery>,
    context: Context,
}

/// Addresses of TEST-NET-3, `count` from the `first` on: nobody is there.
fn members(first: u32, count: usize) -> BTreeSet<SocketAddr> {
    let at = |i: u32| SocketAddr::from(([203, 0, 113, (i % 250) as u8 + 1], 7000 + (i / 250) as u16));
    (first..first + count as u32).map(at).collect()
}

impl<W: World> Test<W> {
    async fn find(&self) -> Result<Answer, Breach> {
        let within = timeout(ANSWER_WITHIN, self.discovery.find(&self.context)).await;
        within.map_err(|_| breach("answers in time", format!("no answer within {ANSWER_WITHIN:?}")))
    }

    fn others(&self, mut found: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        found.remove(&self.context.addr());
        found
    }

    async fn expect(&mut self, rule: &'static str, members: &BTreeSet<SocketAddr>) -> Result<(), Breach> {
        let answer = self.find().await?.map_err(|error| breach(rule, format!("it failed: {error}")))?;
        let found = self.others(answer);
        if found == *members { Ok(()) } else { Err(breach(rule, format!("found {found:?}, not {members:?}"))) }
    }

    async fn finds_what_is_there_and_follows_it(&mut self) -> Result<(), Breach> {
        for (first, count) in [(0, 3), (2, 2), (10, 5), (0, 1)] {
            let members = members(first, count.min(self.world.capacity()));
            self.world.place(&members).await;
            self.expect("finds what is there and follows it", &members).await?;
        }
        if self.world.can_be_empty() {
            self.world.place(&BTreeSet::new()).await;
            self.expect("says when nobody is there", &BTreeSet::new()).await?;
        }
        Ok(())
    }

    async fn survives_failures(&mut self) -> Result<(), Breach> {
        let rule = "fails when it does not know, and works again";
        let before = members(0, 2);
        self.world.place(&before).await;
        self.expect(rule, &before).await?;
        if !self.world.fail(true) {
            return Ok(());
        }
        for _ in 0..3 {
            match self.find().await? {
                Ok(found) => return Err(breach(rule, format!("it cannot know, and says {found:?}"))),
                Err(error) if error.to_string().is_empty() => return Err(breach(rule, "the error says nothing")),
                Err(_) => {}
            }
        }
        self.world.fail(false);
        let after = members(1, 3);
        self.world.place(&after).await;
        self.expect(rule, &after).await
    }

    async fn is_bounded(&mut self) -> Result<(), Breach> {
        let rule = "answers with a bounded number of addresses, or fails";
        let many = members(0, self.world.capacity());
        self.world.place(&many).await;
        if let Ok(found) = self.find().await? {
            let found = self.others(found);
            if found.len() > MAX_FOUND {
                return Err(breach(rule, format!("{} addresses are more than {MAX_FOUND}", found.len())));
            }
            if found.is_empty() || !found.is_subset(&many) {
                return Err(breach(rule, "what it names is not there"));
            }
        }
        let few = members(5, 2);
        self.world.place(&few).await;
        self.expect(rule, &few).await
    }

    async fn can_be_asked_at_once_and_given_up(&mut self) -> Result<(), Breach> {
        let rule = "can be asked by many at once, and given up";
        let here = members(20, 2);
        self.world.place(&here).await;
        let mut asking: Vec<_> = (0..AT_ONCE).map(|_| Some(self.discovery.find(&self.context))).collect();
        // Every other question is dropped after its first poll.
        for question in asking.iter_mut().skip(1).step_by(2) {
            let _ = poll_fn(|cx| Poll::Ready(question.as_mut().map(|question| question.as_mut().poll(cx)))).await;
            *question = None;
        }
        let mut answers = Vec::new();
        for question in asking.into_iter().flatten() {
            let answer = timeout(ANSWER_WITHIN, question).await;
            answers.push(answer.map_err(|_| breach(rule, format!("no answer within {ANSWER_WITHIN:?}")))?);
        }
        for answer in answers {
            let found = self.others(answer.map_err(|error| breach(rule, format!("it failed: {error}")))?);
            if found != here {
                return Err(breach(rule, format!("found {found:?}, not {here:?}")));
            }
        }
        self.expect(rule, &here).await
    }

    async fn does_not_block(&mut self) -> Result<(), Breach> {
        let stalled = self.world.stall(true);
        let (discovery, context, runtime) = (self.discovery.clone(), self.context.clone(), Handle::current());
        let polled = tokio::task::spawn_blocking(move || {
            let _entered = runtime.enter();
            let mut question = discovery.find(&context);
            question.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())).is_ready()
        });
        let in_time = timeout(POLL_WITHIN, polled).await;
        if stalled {
            self.world.stall(false);
        }
        match in_time {
            Ok(Ok(ready)) if ready && stalled => Err(breach("does not block", "it answered while nobody could")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(breach("does not panic", "it panicked")),
            Err(_) => Err(breach("does not block", format!("one poll took longer than {POLL_WITHIN:?}"))),
        }
    }
}

fn breach(rule: &'static str, what: impl Into<String>) -> Breach {
    Breach { rule, what: what.into() }
}
