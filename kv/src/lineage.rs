//! Which boots a boot continues: those whose records and standing its engine holds. Pure.
//!
//! A boot that opens the folder of an earlier one of its name is its *heir*: it holds all that the other had acknowledged
//! to anybody, and stands for what it stood for. So whoever has heard an heir has heard its ancestors ([`crate::standing`]).
//! A boot with an empty folder is nobody's heir. Which boots a folder has had is kept in it, and is told with every account.

use std::collections::BTreeMap;

use polity_cluster::{Boot, NodeId, NodeName};
use serde::{Deserialize, Deserializer, Serialize};

/// The most ancestors that are remembered, the newest. One more is added by each restart, and an ancestor matters only
/// while a roster with it is owed somewhere: an older one is taken for lost, and then more must be heard.
pub(crate) const MAX_ANCESTORS: usize = 64;

/// The ancestors of a boot, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Lineage(Vec<Boot>);

impl Lineage {
    pub(crate) fn new(mut ancestors: Vec<Boot>) -> Self {
        ancestors.truncate(MAX_ANCESTORS);
        Self(ancestors)
    }

    pub(crate) fn boots(&self) -> &[Boot] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Lineage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let boots = Vec::<Boot>::deserialize(deserializer)?;
        if boots.len() > MAX_ANCESTORS {
            return Err(D::Error::custom("a lineage has more boots than are remembered"));
        }
        Ok(Self(boots))
    }
}

/// What is known of lineages: of each name that of the newest boot that has told it. As many as there are members.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heirs(BTreeMap<NodeName, (Boot, Lineage)>);

impl Heirs {
    /// What is known before anybody has said anything: one's own.
    pub(crate) fn new(own: &NodeId, lineage: Lineage) -> Self {
        Self(BTreeMap::from([(own.name.clone(), (own.boot, lineage))]))
    }

    /// Whether that would be news.
    pub(crate) fn lacks(&self, node: &NodeId) -> bool {
        self.0.get(&node.name).is_none_or(|(boot, _)| *boot < node.boot)
    }

    /// A boot says whom it continues. That never changes.
    pub(crate) fn note(&mut self, node: &NodeId, lineage: Lineage) {
        if self.lacks(node) {
            self.0.insert(node.name.clone(), (node.boot, lineage));
        }
    }

    /// Forgets those of names that are not members any more.
    pub(crate) fn retain(&mut self, is_member: impl Fn(&NodeName) -> bool) {
        self.0.retain(|name, _| is_member(name));
    }

    /// Whether a boot continues an earlier one of its name. `None` if it has not said.
    pub(crate) fn continues(&self, newer: &NodeId, older: &NodeId) -> Option<bool> {
        let (boot, lineage) = self.0.get(&newer.name)?;
        (*boot == newer.boot).then(|| newer.name == older.name && lineage.0.contains(&older.boot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::boot;

    fn lineage(boots: &[&str]) -> Lineage {
        Lineage::new(boots.iter().map(|text| boot(text).boot).collect())
    }

    #[test]
    fn only_what_the_newest_boot_has_said_counts() {
        let mut heirs = Heirs::new(&boot("a3"), lineage(&["a2", "a1"]));
        assert_eq!(heirs.continues(&boot("a3"), &boot("a1")), Some(true));
        assert_eq!(heirs.continues(&boot("b2"), &boot("b1")), None);
        heirs.note(&boot("b2"), lineage(&["b1"]));
        assert_eq!(heirs.continues(&boot("b2"), &boot("b1")), Some(true));
        assert_eq!(heirs.continues(&boot("b2"), &boot("a1")), Some(false), "of its own name only");
        heirs.note(&boot("b3"), lineage(&[]));
        assert_eq!(heirs.continues(&boot("b3"), &boot("b1")), Some(false));
        assert_eq!(heirs.continues(&boot("b2"), &boot("b1")), None);
        heirs.note(&boot("b2"), lineage(&["b1"]));
        assert_eq!(heirs.continues(&boot("b3"), &boot("b1")), Some(false), "late news of an older boot");
        heirs.retain(|name| name.as_str() == "a");
        assert_eq!(heirs.continues(&boot("b3"), &boot("b1")), None);
    }

    #[test]
    fn a_lineage_is_bounded_and_keeps_the_newest() {
        let boots = |count: u64| (0..count).map(|generation| Boot { generation, nonce: 1 }).collect::<Vec<_>>();
        assert_eq!(Lineage::new(boots(100)).boots(), boots(MAX_ANCESTORS as u64));
        let encoded = |count| postcard::to_allocvec(&boots(count)).expect("encodes");
        assert!(postcard::from_bytes::<Lineage>(&encoded(MAX_ANCESTORS as u64)).is_ok());
        assert!(postcard::from_bytes::<Lineage>(&encoded(MAX_ANCESTORS as u64 + 1)).is_err());
    }
}
