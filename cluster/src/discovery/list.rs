//! Addresses and names that are given once, and resolved again for ever.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::{Context, Discovery, DiscoveryError, MAX_FOUND, is_host_and_port};
use crate::error::Error;
use crate::ground::BoxFuture;

/// How long one name may take to resolve: less than a discovery is given as a whole, so that one name that hangs does
/// not hide what the others resolve to. Resolvers give up on a server after some five seconds themselves.
const RESOLVE_WITHIN: Duration = Duration::from_secs(4);
const _: () = assert!(RESOLVE_WITHIN.as_millis() < super::asker::FIND_WITHIN.as_millis());

/// A list of `HOST:PORT`. Every address that a name resolves to counts, and names are resolved again whenever the list
/// is asked. What [`Builder::seeds`](crate::Builder::seeds) takes.
#[derive(Debug, Clone)]
pub struct StaticList(Vec<String>);

impl StaticList {
    /// These, each `HOST:PORT`.
    ///
    /// # Errors
    /// [`Error::Config`] if one is something else, or if there are more than [`MAX_SEEDS`](super::MAX_SEEDS).
    pub fn new<S: ToString>(seeds: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let seeds: Vec<String> = seeds.into_iter().map(|seed| seed.to_string()).collect();
        if seeds.len() > super::MAX_SEEDS {
            return Err(Error::config("seeds", format!("at most {}, not {}", super::MAX_SEEDS, seeds.len())));
        }
        match seeds.iter().find(|seed| !is_host_and_port(seed)) {
            Some(seed) => Err(Error::config("seeds", format!("HOST:PORT, not {seed:?}"))),
            None => Ok(Self(seeds)),
        }
    }
}

impl Discovery for StaticList {
    fn find<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<BTreeSet<SocketAddr>, DiscoveryError>> {
        Box::pin(resolve_all(context, &self.0))
    }
}

/// One name and a port: every address of the name is a seed. The name may come to stand for others at any time.
#[derive(Debug, Clone)]
pub struct DnsName(String);

impl DnsName {
    /// The members are at this name, all on this port.
    ///
    /// # Errors
    /// [`Error::Config`] if the name is empty or the port is 0.
    pub fn new(name: &str, port: u16) -> Result<Self, Error> {
        if name.is_empty() || port == 0 {
            return Err(Error::config("discover", "a name of a host and a port that is not 0"));
        }
        Ok(Self(format!("{name}:{port}")))
    }
}

impl Discovery for DnsName {
    fn find<'a>(&'a self, context: &'a Context) -> BoxFuture<'a, Result<BTreeSet<SocketAddr>, DiscoveryError>> {
        Box::pin(resolve_all(context, std::slice::from_ref(&self.0)))
    }
}

/// All addresses of all names, which are resolved side by side; the error is that of the first name that fails.
pub(super) async fn resolve_all(context: &Context, names: &[String]) -> Result<BTreeSet<SocketAddr>, DiscoveryError> {
    let (mut found, mut failed) = (BTreeSet::new(), None);
    let resolving = names.iter().map(|name| Box::pin(resolve(context, name)) as Resolving<'_>).collect();
    for answer in side_by_side(resolving).await {
        match answer {
            Ok(addrs) => found.extend(addrs.into_iter().take(MAX_FOUND.saturating_sub(found.len()))),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    match failed {
        Some(error) => Err(DiscoveryError::with_found(error, found)),
        None => Ok(found),
    }
}

type Resolving<'a> = BoxFuture<'a, Result<Vec<SocketAddr>, DiscoveryError>>;

async fn resolve(context: &Context, name: &str) -> Result<Vec<SocketAddr>, DiscoveryError> {
    let error = |cause: Box<dyn std::error::Error + Send + Sync>| {
        DiscoveryError::new(format!("cannot resolve the seed {name:?}"), cause)
    };
    match timeout(RESOLVE_WITHIN, context.env().ground().resolve(name)).await {
        Ok(Ok(found)) if found.is_empty() => Err(error("the name has no address".into())),
        Ok(Ok(found)) => Ok(found),
        Ok(Err(cause)) => Err(error(cause.into())),
        Err(_) => Err(error(format!("no answer within {} s", RESOLVE_WITHIN.as_secs()).into())),
    }
}

/// Polls all until all are ready. There are few, so each is polled whenever one is woken.
async fn side_by_side<T>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut slots: Vec<(Option<BoxFuture<'_, T>>, Option<T>)> =
        futures.into_iter().map(|future| (Some(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut waits = false;
        for (future, answer) in &mut slots {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    Poll::Ready(ready) => {
                        *answer = Some(ready);
                        *future = None;
                    }
                    Poll::Pending => waits = true,
                }
            }
        }
        if waits { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    slots.into_iter().filter_map(|(_, answer)| answer).collect()
}
