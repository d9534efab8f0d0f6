//! Where a key is, who owns it, why, and what that waits for, in words.

use std::fmt;

use bytes::Bytes;
use polity_cluster::{NodeId, View, Weight, Zone};
use polity_kv::ShardStatus;
use polity_shard::{Blocker, Epoch, Explanation, ShardId, Why};

/// Who acts for the shard of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Owner {
    /// Shards have no owners in this cluster: see [`Builder::ownership`](crate::Builder::ownership).
    NotKept,
    /// The cluster keeps owners, and this shard has none: only those of the store's own number of replicas have. The key is in a
    /// bucket with another ([`BucketConfig::replicas`](crate::BucketConfig::replicas)).
    NotCovered,
    /// Nobody has claimed it, as far as this node knows.
    Nobody,
    /// The boot that the greatest known epoch names.
    Claimed {
        /// Under which it owns the shard.
        epoch: Epoch,
        /// Whether this boot is up. If not, the shard is about to be claimed by another.
        is_up: bool,
        /// Why it has to do with the shard, if it is not one of its replicas.
        why: Option<Why>,
    },
}

/// A node that keeps the key.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Replica {
    /// Which boot.
    pub node: NodeId,
    /// Its place on the preference list; 0 is the first, which should own the shard.
    pub rank: usize,
    /// How many nodes of its zone come before it on the list. Zones that are not on the list yet come first.
    pub rank_in_zone: usize,
    /// Its zone; a node without one is a zone of its own.
    pub zone: Option<Zone>,
    /// Its weight: its share of all shards is in proportion.
    pub weight: Weight,
    /// Whether it is up.
    pub is_up: bool,
}

/// What has not come to rest about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Wait {
    /// There is nobody to keep it: all members are about to leave, or this node knows none yet.
    Replicas,
    /// Fewer replicas are up than make a quorum.
    Quorum {
        /// How many are up.
        up: usize,
        /// How many there must be.
        needed: usize,
    },
    /// This node has just started, and has yet to learn who had the shard before.
    Introduction,
    /// Earlier placements may have acknowledged what this node has not heard of, so it does not vouch for the shard alone.
    Rosters {
        /// How many of them.
        owed: usize,
        /// Whom it has yet to hear from.
        nodes: Vec<NodeId>,
    },
    /// This node has records that are not its to keep any more, and has yet to hand them over.
    Records,
    /// Something about the owner.
    Owner(Blocker),
}

/// Where a key is, who owns its shard, why, and what that waits for, as one node knows it.
///
/// ```text
/// "user-42" is in shard 201, owned by n2#1.5b1c9a04 in epoch 1 (as n1#1.0c44d2e7 knows it)
///   1. n2 in zone b, weight 100: scores best of all; owns it
///   2. n1 in zone a, weight 100: scores best in its zone; this node
///   3. n3 in zone b, weight 100: all zones have one already, and it scores best of the rest
///   waits for nothing
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KeyExplanation {
    /// The key.
    pub key: Bytes,
    /// The bucket that it is in; `None` outside of the named ones.
    pub bucket: Option<String>,
    /// Its shard.
    pub shard: ShardId,
    /// The node that says so.
    pub by: NodeId,
    /// Who owns the shard.
    pub owner: Owner,
    /// The nodes that keep it, best first: the preference list.
    pub replicas: Vec<Replica>,
    /// What it waits for.
    pub waits_for: Vec<Wait>,
}

/// What is known of the owner of a shard.
pub(crate) enum Known {
    NotKept,
    NotCovered,
    Of(Explanation),
}

impl KeyExplanation {
    pub(crate) fn new(
        (bucket, key): (Option<&str>, &[u8]),
        by: &NodeId,
        view: &View,
        status: &ShardStatus,
        owner: Known,
    ) -> Self {
        let mut replicas: Vec<Replica> = Vec::new();
        for node in &status.replicas {
            let member = view.members.get(&node.name).filter(|member| member.id == *node);
            let profile = member.and_then(|member| member.profile.as_ref());
            let zone = profile.and_then(|profile| profile.zone.clone());
            let before = replicas.iter().filter(|other| zone.is_some() && other.zone == zone).count();
            replicas.push(Replica {
                node: node.clone(),
                rank: replicas.len(),
                rank_in_zone: before,
                zone,
                weight: profile.map(|profile| profile.weight).unwrap_or_default(),
                is_up: member.is_some_and(|member| member.status.is_up()),
            });
        }
        let mut waits_for = waits_of_store(status);
        let owner = match owner {
            Known::NotKept => Owner::NotKept,
            Known::NotCovered => Owner::NotCovered,
            Known::Of(Explanation { epoch, is_owner_up, places, blockers, .. }) => {
                waits_for.extend(blockers.into_iter().map(Wait::Owner));
                epoch.map_or(Owner::Nobody, |epoch| {
                    let place = places.into_iter().find(|place| place.name == epoch.owner.name);
                    let why = place.map(|place| place.why).filter(|why| !matches!(why, Why::Placed(_)));
                    Owner::Claimed { epoch, is_up: is_owner_up, why }
                })
            }
        };
        let (bucket, key) = (bucket.map(str::to_owned), Bytes::copy_from_slice(key));
        Self { key, bucket, shard: status.shard, by: by.clone(), owner, replicas, waits_for }
    }
}

impl KeyExplanation {
    /// The epoch under which the shard is owned, if it is.
    #[must_use]
    pub const fn owner_epoch(&self) -> Option<&Epoch> {
        match &self.owner {
            Owner::Claimed { epoch, .. } => Some(epoch),
            Owner::NotKept | Owner::NotCovered | Owner::Nobody => None,
        }
    }
}

fn waits_of_store(status: &ShardStatus) -> Vec<Wait> {
    let mut waits = Vec::new();
    if status.replicas.is_empty() {
        waits.push(Wait::Replicas);
    } else if !status.has_quorum() {
        waits.push(Wait::Quorum { up: status.up, needed: status.quorum });
    }
    if !status.is_introduced {
        waits.push(Wait::Introduction);
    } else if status.owed > 0 {
        waits.push(Wait::Rosters { owed: status.owed, nodes: status.waits_for.clone() });
    }
    if status.is_to_hand_over() {
        waits.push(Wait::Records);
    }
    waits
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicas => f.write_str("somebody who could keep it"),
            Self::Quorum { up, needed } => write!(f, "a quorum: {up} of its replicas are up, and {needed} are needed"),
            Self::Introduction => f.write_str("this node to learn who had the shard before"),
            Self::Rosters { owed, nodes } => {
                let placements = if *owed == 1 { "placement" } else { "placements" };
                write!(f, "an account of {owed} earlier {placements}, which this node owes")?;
                for (at, node) in nodes.iter().enumerate() {
                    write!(f, "{} {node}", if at == 0 { ": to hear from" } else { "," })?;
                }
                Ok(())
            }
            Self::Records => f.write_str("this node to hand its records over to the replicas"),
            Self::Owner(blocker) => fmt::Display::fmt(blocker, f),
        }
    }
}

impl Replica {
    fn why(&self) -> &'static str {
        match (self.rank, self.rank_in_zone, &self.zone) {
            (0, ..) => "scores best of all",
            (_, 0, Some(_)) => "scores best in its zone",
            (_, _, None) => "scores best of the rest",
            _ => "all zones have one already, and it scores best of the rest",
        }
    }
}

impl fmt::Display for KeyExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.key.escape_ascii())?;
        if let Some(bucket) = &self.bucket {
            write!(f, " of {bucket:?}")?;
        }
        write!(f, " is in shard {}, ", self.shard)?;
        let owner = match &self.owner {
            Owner::NotKept => {
                f.write_str("which has no owner: the cluster keeps none")?;
                None
            }
            Owner::NotCovered => {
                f.write_str("which has no owner: the bucket has a number of replicas of its own")?;
                None
            }
            Owner::Nobody => {
                f.write_str("which nobody owns")?;
                None
            }
            Owner::Claimed { epoch, is_up, .. } => {
                write!(f, "owned by {} in epoch {}", epoch.owner, epoch.counter)?;
                f.write_str(if *is_up { "" } else { ", which is not up" })?;
                Some(&epoch.owner)
            }
        };
        writeln!(f, " (as {} knows it)", self.by)?;
        for replica in &self.replicas {
            let Replica { node, rank, zone, weight, is_up, .. } = replica;
            write!(f, "  {}. {}", rank + 1, node.name)?;
            if let Some(zone) = zone {
                write!(f, " in zone {zone}")?;
            }
            write!(f, ", weight {}: {}", weight.get(), replica.why())?;
            f.write_str(if owner == Some(node) { "; owns it" } else { "" })?;
            f.write_str(if *node == self.by { "; this node" } else { "" })?;
            writeln!(f, "{}", if *is_up { "" } else { "; not up" })?;
        }
        if let Owner::Claimed { epoch, why: Some(why), .. } = &self.owner {
            writeln!(f, "  {}: {why}", epoch.owner.name)?;
        }
        if self.waits_for.is_empty() {
            return f.write_str("  waits for nothing");
        }
        for (at, wait) in self.waits_for.iter().enumerate() {
            write!(f, "{}  waits for {wait}", if at > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use polity_cluster::Boot;
    use polity_cluster::NodeName;

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId { name: NodeName::new(name).expect("valid"), boot: Boot { generation: 1, nonce: 7 } }
    }

    fn replica(name: &str, rank: usize, zone: Option<&str>, rank_in_zone: usize) -> Replica {
        let zone = zone.map(|zone| Zone::new(zone).expect("valid"));
        Replica { node: node(name), rank, rank_in_zone, zone, weight: Weight::default(), is_up: name != "n4" }
    }

    #[test]
    fn it_reads_well() {
        let epoch = Epoch { counter: 3, owner: node("n9") };
        let told = KeyExplanation {
            key: Bytes::from_static(b"a\0b"),
            bucket: None,
            shard: ShardId(17),
            by: node("n1"),
            owner: Owner::Claimed { epoch: epoch.clone(), is_up: true, why: Some(Why::KeepsUntilHandoff) },
            replicas: vec![
                replica("n1", 0, Some("a"), 0),
                replica("n2", 1, Some("b"), 0),
                replica("n3", 2, None, 0),
                replica("n4", 3, Some("a"), 1),
            ],
            waits_for: vec![
                Wait::Rosters { owed: 2, nodes: vec![node("n2"), node("n5")] },
                Wait::Quorum { up: 1, needed: 2 },
                Wait::Introduction,
                Wait::Records,
                Wait::Owner(Blocker::Handoff(node("n1"))),
            ],
        };
        assert_eq!(
            told.to_string().lines().collect::<Vec<_>>(),
            [
                "\"a\\x00b\" is in shard 17, owned by n9#1.00000000 in epoch 3 (as n1#1.00000000 knows it)",
                "  1. n1 in zone a, weight 100: scores best of all; this node",
                "  2. n2 in zone b, weight 100: scores best in its zone",
                "  3. n3, weight 100: scores best of the rest",
                "  4. n4 in zone a, weight 100: all zones have one already, and it scores best of the rest; not up",
                "  n9: not placed here any more; keeps it until the handoff ends",
                "  waits for an account of 2 earlier placements, which this node owes: to hear from n2#1.00000000, \
                 n5#1.00000000",
                "  waits for a quorum: 1 of its replicas are up, and 2 are needed",
                "  waits for this node to learn who had the shard before",
                "  waits for this node to hand its records over to the replicas",
                "  waits for its owner to hand it over to n1#1.00000000",
            ]
        );
        assert_eq!(told.owner_epoch(), Some(&epoch));
        let lost = KeyExplanation {
            owner: Owner::Claimed { epoch, is_up: false, why: Some(Why::LastClaim) },
            replicas: Vec::new(),
            waits_for: vec![Wait::Replicas],
            ..told.clone()
        };
        assert!(lost.to_string().contains("in epoch 3, which is not up (as"));
        let nobody = KeyExplanation { owner: Owner::Nobody, ..lost };
        assert!(nobody.to_string().contains("which nobody owns"));
        assert_eq!(nobody.owner_epoch(), None);
        let not_covered = KeyExplanation { bucket: Some("\"x\"".to_owned()), owner: Owner::NotCovered, ..nobody };
        let text = not_covered.to_string();
        assert!(text.starts_with(r#""a\x00b" of "\"x\"" is in shard 17, which has no owner: the bucket has a number"#));
        assert_eq!(not_covered.owner_epoch(), None);
    }
}
