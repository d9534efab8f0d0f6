//! A closure as a discovery.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;

use super::{Context, Discovery, DiscoveryError};
use crate::ground::BoxFuture;

/// The discovery that [`from_fn`] makes.
pub struct FromFn<F>(F);

/// Asks a function, which must not block.
///
/// ```
/// use std::collections::BTreeSet;
/// use polity_cluster::discovery::from_fn;
///
/// let fixed = from_fn(|| Ok(BTreeSet::from(["192.0.2.7:7946".parse()?])));
/// # let _: &dyn polity_cluster::discovery::Discovery = &fixed;
/// ```
pub fn from_fn<F>(find: F) -> FromFn<F>
where
    F: Fn() -> Result<BTreeSet<SocketAddr>, DiscoveryError> + Send + Sync + 'static,
{
    FromFn(find)
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromFn")
    }
}

impl<F> Discovery for FromFn<F>
where
    F: Fn() -> Result<BTreeSet<SocketAddr>, DiscoveryError> + Send + Sync + 'static,
{
    fn find<'a>(&'a self, _: &'a Context) -> BoxFuture<'a, Result<BTreeSet<SocketAddr>, DiscoveryError>> {
        Box::pin(async { (self.0)() })
    }
}

/// The discovery that [`from_async_fn`] makes.
pub struct FromAsyncFn<F>(F);

/// Asks an asynchronous function: a service registry, an orchestrator. Its future may be dropped at any time.
pub fn from_async_fn<F, R>(find: F) -> FromAsyncFn<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<BTreeSet<SocketAddr>, DiscoveryError>> + Send + 'static,
{
    FromAsyncFn(find)
}

impl<F> fmt::Debug for FromAsyncFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromAsyncFn")
    }
}

impl<F, R> Discovery for FromAsyncFn<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<BTreeSet<SocketAddr>, DiscoveryError>> + Send + 'static,
{
    fn find<'a>(&'a self, _: &'a Context) -> BoxFuture<'a, Result<BTreeSet<SocketAddr>, DiscoveryError>> {
        Box::pin(async { (self.0)().await })
    }
}
