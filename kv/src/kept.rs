//! What a node keeps of itself beside its records: whom it continues, how it stands to each shard, and which numbers of replicas
//! its shards have had. Pure.
//!
//! Values of [`crate::engine::Engine::meta`], each with its version in front. Bytes: `docs/STORAGE.md`.

use std::collections::BTreeSet;

use polity_cluster::{Boot, NodeName};
use polity_shard::{ReplicaCount, ShardCount, ShardId};
use serde::{Deserialize, Serialize};

use crate::lineage::Lineage;
use crate::roster::Roster;
use crate::standing::Standing;

/// The name of the lineage.
pub(crate) const LINEAGE: &str = "lineage";

/// The name of the numbers of replicas, other than the store's own, that shards have had.
pub(crate) const CLASSES: &str = "classes";

/// The name of the standing of a shard.
pub(crate) fn standing_of(shard: ShardId) -> String {
    format!("standing/{}", shard.0)
}

const VERSION: u8 = 1;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotKept {
    #[error("it has version {0}, and this build reads {VERSION}")]
    Version(u8),
    #[error("{0}")]
    Malformed(String),
}

#[derive(Serialize, Deserialize)]
struct KeptLineage {
    name: NodeName,
    shards: u32,
    /// The boot that wrote it, then those that it continues.
    boots: Vec<Boot>,
}

#[derive(Serialize, Deserialize)]
struct KeptStanding {
    current: Roster,
    owed: Vec<Roster>,
    /// Whether some that are owed are missing: never.
    is_partial: bool,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("it encodes into a growing buffer")
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, NotKept> {
    let malformed = |what: &str| NotKept::Malformed(what.to_owned());
    match bytes.split_first() {
        None => Err(malformed("it is empty")),
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(malformed("trailing bytes")),
            Err(error) => Err(NotKept::Malformed(error.to_string())),
        },
        Some((version, _)) => Err(NotKept::Version(*version)),
    }
}

/// The lineage that `boot` leaves to its heir.
pub(crate) fn encode_lineage(name: &NodeName, shards: ShardCount, boot: Boot, lineage: &Lineage) -> Vec<u8> {
    let boots = [&[boot], lineage.boots()].concat();
    encode(&KeptLineage { name: name.clone(), shards: shards.get(), boots: Lineage::new(boots).boots().to_vec() })
}

/// What a boot continues that finds this. `None` if it was left by a node of another name, or for other shards: nothing in
/// the engine but its records means anything to this one.
pub(crate) fn decode_lineage(bytes: &[u8], name: &NodeName, shards: ShardCount) -> Result<Option<Lineage>, NotKept> {
    let kept: KeptLineage = decode(bytes)?;
    Ok((kept.name == *name && kept.shards == shards.get()).then(|| Lineage::new(kept.boots)))
}

pub(crate) fn encode_classes(classes: &BTreeSet<ReplicaCount>) -> Vec<u8> {
    encode(classes)
}

pub(crate) fn decode_classes(bytes: &[u8]) -> Result<BTreeSet<ReplicaCount>, NotKept> {
    decode(bytes)
}

pub(crate) fn encode_standing(standing: &Standing) -> Vec<u8> {
    let (current, owed) = (standing.current().clone(), standing.owed().cloned().collect());
    encode(&KeptStanding { current, owed, is_partial: false })
}

pub(crate) fn decode_standing(bytes: &[u8]) -> Result<Standing, NotKept> {
    let KeptStanding { current, owed, is_partial } = decode(bytes)?;
    let malformed = || NotKept::Malformed("rosters that no standing has".to_owned());
    if current.is_empty() || is_partial {
        return Err(malformed());
    }
    Standing::restored(current, owed).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::{boot, roster};
    use crate::standing::MAX_OWED;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes() {
        let (shards, node) = (ShardCount::new(256).expect("valid"), boot("a3"));
        let lineage = Lineage::new(vec![boot("a2").boot, boot("a1").boot]);
        let kept = encode_lineage(&node.name, shards, node.boot, &lineage);
        assert_eq!(hex(&kept), "010161800203030702070107", "the format: docs/STORAGE.md");
        let mut standing = Standing::new(roster("a3 b1"), [roster("a2 b1")]).expect("room");
        assert!(standing.fence(&roster("b1")));
        let kept = encode_standing(&standing);
        let rosters = ["0201610307016201" /* a3 b1 */, "07", "02", "0201610207016201", "07", "0101620107"];
        assert_eq!(hex(&kept), format!("01{}00", rosters.concat()), "the format: docs/STORAGE.md");
        assert_eq!([standing_of(ShardId(7)).as_str(), LINEAGE, CLASSES], ["standing/7", "lineage", "classes"]);
        let classes = [5, 1].map(|count| ReplicaCount::new(count).expect("valid")).into();
        assert_eq!(hex(&encode_classes(&classes)), "01020105", "the format: docs/STORAGE.md");
        assert_eq!(decode_classes(&encode_classes(&classes)), Ok(classes));
        assert!(decode_classes(&[1, 1, 17]).is_err(), "no shard has so many");
    }

    #[test]
    fn what_is_kept_is_found_and_nothing_else_is_believed() {
        let (shards, node) = (ShardCount::new(16).expect("valid"), boot("a2"));
        let kept = encode_lineage(&node.name, shards, node.boot, &Lineage::new(vec![boot("a1").boot]));
        let found = decode_lineage(&kept, &node.name, shards).expect("whole").expect("its own");
        assert_eq!(found.boots(), [boot("a2").boot, boot("a1").boot]);
        assert_eq!(decode_lineage(&kept, &boot("b1").name, shards), Ok(None));
        assert_eq!(decode_lineage(&kept, &node.name, ShardCount::new(32).expect("valid")), Ok(None));
        let mut standing = Standing::new(roster("a2 b1"), [roster("a1 b1")]).expect("room");
        standing.move_to(roster("a2"), &boot("a2"));
        let bytes = encode_standing(&standing);
        let found = decode_standing(&bytes).expect("whole");
        assert!(found.rosters().eq(standing.rosters()));
        for length in 0..bytes.len() {
            assert!(decode_standing(&bytes[..length]).is_err(), "{length}");
        }
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert!(matches!(decode_standing(&newer), Err(NotKept::Version(2))));
        assert!(decode_standing(&[&bytes[..], &[0]].concat()).is_err());
        let crowd: Vec<Roster> = (0..=MAX_OWED as u64)
            .map(|generation| {
                Roster::new([polity_cluster::NodeId { boot: Boot { generation, nonce: 1 }, ..boot("a1") }])
            })
            .collect();
        let kept = KeptStanding { current: roster("a1"), owed: crowd, is_partial: false };
        assert!(decode_standing(&encode(&kept)).is_err());
    }
}
