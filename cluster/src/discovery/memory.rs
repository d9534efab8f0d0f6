//! Where members were: addresses that a node greets when nobody else tells it any, after its own restart or when those
//! who were there have been forgotten.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use crate::ground::Env;
use crate::membership::view::{Status, View};

/// The name of the file that remembers them.
const FILE: &str = "members";
/// How many addresses are remembered: with so many drawn by chance, some are on the other side of almost any split.
const REMEMBERED: usize = 32;
/// How many of them may be of members that are not up: those who were up last. The rest is kept free for who is.
const ABSENT: usize = REMEMBERED / 2;
/// How many that the membership knows nothing of are greeted at once, beside the seeds.
const GREETED: usize = 4;

/// Addresses at which members were up.
#[derive(Debug)]
pub(crate) struct Memory {
    path: Option<PathBuf>,
    /// Those who were seen up last are last.
    addrs: Vec<SocketAddr>,
    is_written: bool,
}

impl Memory {
    /// What the folder remembers; nothing if there is none. Whatever is wrong with the file costs what it remembers.
    pub(crate) fn of(env: &Env, folder: Option<&PathBuf>) -> Self {
        let path = folder.map(|folder| folder.join(FILE));
        let content = path.as_ref().map(|path| env.ground().read(path));
        let content = match content {
            None => None,
            Some(Ok(content)) => content,
            Some(Err(error)) => {
                tracing::warn!(%error, "the addresses of earlier members cannot be read");
                None
            }
        };
        let text = content.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let addrs = text.lines().filter_map(|line| line.trim().parse().ok()).take(REMEMBERED).collect();
        Self { path, addrs, is_written: true }
    }

    /// Whether it remembers anybody.
    pub(crate) fn names_any(&self) -> bool {
        !self.addrs.is_empty()
    }

    /// Takes in who is up now.
    pub(crate) fn see(&mut self, view: &View, own: SocketAddr, rng: &mut StdRng) {
        let at = |is: &dyn Fn(Status) -> bool| -> BTreeSet<SocketAddr> {
            view.members.values().filter(|member| is(member.status)).map(|member| member.addr).collect()
        };
        let (mut up, left) = (at(&Status::is_up), at(&|status| status == Status::Left));
        up.remove(&own);
        let (present, mut absent): (Vec<_>, Vec<_>) = self
            .addrs
            .iter()
            .copied()
            .filter(|addr| *addr != own && (up.contains(addr) || !left.contains(addr)))
            .partition(|addr| up.contains(addr));
        absent.drain(..absent.len().saturating_sub(ABSENT));
        let room = REMEMBERED.saturating_sub(absent.len() + present.len());
        let mut addrs = absent;
        let more = up.iter().copied().filter(|addr| !present.contains(addr)).sample(rng, room);
        addrs.extend(present);
        addrs.extend(more);
        if addrs != self.addrs {
            self.addrs = addrs;
            self.is_written = false;
        }
    }

    /// Some at which the view has nobody, neither up nor down: members that are down are announced to anyway.
    pub(crate) fn to_greet(&self, view: &View, rng: &mut StdRng) -> Vec<SocketAddr> {
        let known: BTreeSet<SocketAddr> = view.members.values().map(|member| member.addr).collect();
        self.addrs.iter().copied().filter(|addr| !known.contains(addr)).sample(rng, GREETED)
    }

    /// Writes the file if something has changed since it was written. [`Memory::written`] is to be told whether it was.
    pub(crate) fn write(&mut self, env: &Env) -> Option<impl Future<Output = bool> + Send + use<>> {
        let path = self.path.clone().filter(|_| !self.is_written)?;
        let text: String = self.addrs.iter().map(|addr| format!("{addr}\n")).collect();
        self.is_written = true;
        let env = env.clone();
        Some(async move {
            let written = write(&env, path, text.into_bytes()).await;
            if let Err(error) = &written {
                tracing::warn!(%error, "the addresses of the members cannot be written");
            }
            written.is_ok()
        })
    }

    /// Takes in whether the file was written.
    pub(crate) fn written(&mut self, is_written: bool) {
        self.is_written &= is_written;
    }
}

/// Replaces a file without keeping the node's thread waiting for the disk. In a simulation disks take no time, and a
/// thread beside it would not be part of it.
pub(crate) async fn write(env: &Env, path: PathBuf, content: Vec<u8>) -> io::Result<()> {
    if !env.ground().own_thread() {
        return env.ground().write(&path, &content);
    }
    let env = env.clone();
    let writing = tokio::task::spawn_blocking(move || env.ground().write(&path, &content));
    writing.await.map_err(io::Error::other)?
}

/// Reads a file in the same way: a folder may be on a network that does not answer. What is `held` is dropped when it has
/// been read, even if nobody waits for that any more.
pub(crate) async fn read<H: Send + 'static>(env: &Env, path: PathBuf, held: H) -> io::Result<Option<Vec<u8>>> {
    if !env.ground().own_thread() {
        return env.ground().read(&path);
    }
    let env = env.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let _held = held;
        env.ground().read(&path)
    });
    reading.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Boot, NodeId, NodeName};
    use crate::membership::view::Member;
    use rand::SeedableRng as _;

    fn addr(at: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (at >> 8) as u8, at as u8], 7946))
    }

    fn view(members: impl IntoIterator<Item = (u16, Status)>) -> View {
        let member = |(at, status): (u16, Status)| {
            let name = NodeName::new(&format!("n{at}")).expect("valid");
            let id = NodeId { name: name.clone(), boot: Boot { generation: 1, nonce: u128::from(at) } };
            let state = std::collections::BTreeMap::new();
            (
                name,
                Member {
                    id,
                    addr: addr(at),
                    status,
                    rejoin: 0,
                    profile: None,
                    addresses: std::collections::BTreeMap::new(),
                    load: None,
                    speaks: crate::version::Speaks::CURRENT,
                    state,
                },
            )
        };
        View { version: 1, members: members.into_iter().map(member).collect() }
    }

    fn memory() -> Memory {
        Memory { path: None, addrs: Vec::new(), is_written: true }
    }

    #[test]
    fn who_is_gone_is_remembered_and_who_has_left_is_not() {
        let (mut memory, mut rng) = (memory(), StdRng::seed_from_u64(1));
        memory.see(&view([(0, Status::Alive), (1, Status::Alive), (2, Status::Alive)]), addr(0), &mut rng);
        memory.see(&view([(0, Status::Alive), (1, Status::Down), (2, Status::Left)]), addr(0), &mut rng);
        assert_eq!(memory.addrs, [addr(1)]);
        assert!(memory.to_greet(&view([(0, Status::Alive), (1, Status::Down)]), &mut rng).is_empty());
        assert_eq!(memory.to_greet(&view([(0, Status::Alive)]), &mut rng), [addr(1)]);
    }

    #[test]
    fn it_is_bounded_and_has_room_for_both_sides_of_a_split() {
        let (mut memory, mut rng) = (memory(), StdRng::seed_from_u64(2));
        memory.see(&view((0..1000).map(|at| (at, Status::Alive))), addr(0), &mut rng);
        assert_eq!(memory.addrs.len(), REMEMBERED);
        let split = view((0..1000).map(|at| (at, if at < 500 { Status::Alive } else { Status::Down })));
        memory.see(&split, addr(0), &mut rng);
        memory.see(&view((0..500).map(|at| (at, Status::Alive))), addr(0), &mut rng);
        let far = memory.addrs.iter().filter(|seen| (500..1000).any(|at| addr(at) == **seen)).count();
        assert!((1..=ABSENT).contains(&far) && memory.addrs.len() == REMEMBERED, "{far}");
        assert_eq!(memory.to_greet(&view((0..500).map(|at| (at, Status::Alive))), &mut rng).len(), GREETED.min(far));
    }
}
