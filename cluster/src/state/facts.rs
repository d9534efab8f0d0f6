//! Facts about a node that are entries of their own, because they change by themselves: its load, and where else it listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::table::Table;
use crate::error::Error;
use crate::identity::NodeId;

/// The key of the load in node state.
pub(crate) const LOAD_KEY: &str = ".load";
/// The key of the further addresses in node state.
pub(crate) const ADDRESSES_KEY: &str = ".addresses";

/// The most further addresses that a node may name.
const MAX_ADDRESSES: usize = 16;
/// The longest name of one, in bytes.
const MAX_ADDRESS_NAME_BYTES: usize = 32;
// A name with its length, and the longest address: all of them fit into a value of node state.
const _: () = assert!(MAX_ADDRESSES * (1 + MAX_ADDRESS_NAME_BYTES + 1 + 16 + 3) < super::MAX_VALUE_BYTES);

/// The further addresses as they are stored.
///
/// # Errors
/// [`Error::Config`] if there are too many, or a name is empty or too long.
pub(crate) fn encode_addresses(addresses: &BTreeMap<String, SocketAddr>) -> Result<Vec<u8>, Error> {
    if addresses.len() > MAX_ADDRESSES {
        return Err(Error::config("address", format!("at most {MAX_ADDRESSES}, not {}", addresses.len())));
    }
    if let Some(name) = addresses.keys().find(|name| name.is_empty() || name.len() > MAX_ADDRESS_NAME_BYTES) {
        return Err(Error::config("address", format!("a name of 1 to {MAX_ADDRESS_NAME_BYTES} bytes, not {name:?}")));
    }
    Ok(postcard::to_allocvec(addresses).expect("texts and addresses encode"))
}

impl Table {
    /// The load of this life of a node, if it says one.
    pub(crate) fn load(&self, node: &NodeId) -> Option<u16> {
        self.value(node, LOAD_KEY).and_then(|bytes| postcard::from_bytes(bytes).ok())
    }

    /// Where else this life of a node listens.
    pub(crate) fn addresses(&self, node: &NodeId) -> BTreeMap<String, SocketAddr> {
        self.value(node, ADDRESSES_KEY).and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Boot, NodeName};

    #[test]
    fn addresses_fit_or_are_refused() {
        let addr: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().expect("an address");
        let of = |count: usize, length: usize| (0..count).map(|at| (format!("{at:0length$}"), addr)).collect();
        let node = NodeId { name: NodeName::new("a").expect("valid"), boot: Boot { generation: 1, nonce: 1 } };
        let mut table = Table::new(node.clone());
        let most: BTreeMap<_, _> = of(MAX_ADDRESSES, MAX_ADDRESS_NAME_BYTES);
        table.set(ADDRESSES_KEY, encode_addresses(&most).expect("allowed")).expect("it fits");
        assert_eq!(table.addresses(&node), most);
        assert!(encode_addresses(&of(MAX_ADDRESSES + 1, 4)).is_err());
        assert!(encode_addresses(&of(1, MAX_ADDRESS_NAME_BYTES + 1)).is_err());
        assert!(encode_addresses(&BTreeMap::from([(String::new(), addr)])).is_err());
        assert_eq!(table.load(&node), None);
    }
}
