//! The operating system as a ground. The only module that may read its clocks and its random source.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use quinn::Runtime as _;
use ring::rand::SecureRandom as _;
use socket2::{Domain, Socket, Type};

use super::{BoxFuture, Ground};

/// See [`super::Env::real`].
#[derive(Debug)]
pub(super) struct Real;

/// Wanted size of the socket's buffers in bytes: a batch of datagrams for each of some dozens of peers. The kernel caps
/// it at its own limit (`net.core.rmem_max`).
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

impl Ground for Real {
    fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::DGRAM, None)?;
        // Larger buffers are a wish; the kernel's limit is no reason to fail.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        quinn::TokioRuntime.wrap_udp_socket(socket.into())
    }

    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let mut found: Vec<_> = tokio::net::lookup_host(host).await?.collect();
            found.sort_unstable();
            found.dedup();
            Ok(found)
        })
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        ring::rand::SystemRandom::new().fill(&mut seed).expect("the operating system has random bytes");
        seed
    }

    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(path) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let draft = path.with_extension("draft");
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        // The new name is durable once its folder is.
        std::fs::File::open(folder)?.sync_all()
    }

    fn multicast_sender(&self, interface: Ipv4Addr) -> io::Result<Option<UdpSocket>> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_multicast_if_v4(&interface)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddrV4::new(interface, 0).into())?;
        Ok(Some(socket.into()))
    }

    fn multicast_receiver(&self, group: SocketAddrV4, interface: Ipv4Addr) -> io::Result<Option<UdpSocket>> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        // Each process of a machine hears a multicast datagram, however many share the port.
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // Bound to the group, it hears nothing else; Windows binds no group.
        let ip = if cfg!(windows) { Ipv4Addr::UNSPECIFIED } else { *group.ip() };
        socket.bind(&SocketAddrV4::new(ip, group.port()).into())?;
        socket.join_multicast_v4(group.ip(), &interface)?;
        Ok(Some(socket.into()))
    }

    fn own_thread(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_absent_then_whole_then_replaced() {
        let folder = std::env::temp_dir().join(format!("polity-ground-{}", std::process::id()));
        let path = folder.join("sub").join("generation");
        assert_eq!(Real.read(&path).expect("readable"), None);
        Real.write(&path, b"one").expect("writable");
        Real.write(&path, b"two").expect("writable");
        assert_eq!(Real.read(&path).expect("readable").as_deref(), Some(&b"two"[..]));
        std::fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(Real.seed(), Real.seed());
    }
}
