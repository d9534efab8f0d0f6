//! A replicated data type as the record of a key: its state with its causal history, without a replica of its own.

use polity_crdt::{Change, Crdt, DecodeError, Delta as _, Replica, ReplicaId, VersionVector};

/// Nobody writes as this one: whoever writes names itself.
const READER: ReplicaId = ReplicaId(0);

/// The state of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored<T: Crdt>(Replica<T>);

impl<T: Crdt> Default for Stored<T> {
    fn default() -> Self {
        Self(Replica::new(READER))
    }
}

impl<T: Crdt> Stored<T> {
    /// The state of this full state or delta.
    pub(crate) fn of(delta: T::Delta) -> Self {
        Self(Replica::restore(READER, delta))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        T::Delta::decode(bytes).map(Self::of)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.full().encode()
    }

    pub(crate) fn value(&self) -> &T {
        &self.0
    }

    /// Whether nothing is there.
    pub(crate) fn is_bottom(&self) -> bool {
        self.0.is_bottom()
    }

    pub(crate) fn context(&self) -> &VersionVector {
        self.0.context()
    }

    /// Takes in what another copy has. Returns whether anything was new.
    pub(crate) fn merge(&mut self, other: Self) -> bool {
        self.0.merge(other.0.full())
    }

    /// Writes as `replica`, which no other life of any store is. Returns the delta; `None` if nothing changed.
    ///
    /// # Errors
    /// Those of the mutator. Nothing was changed then.
    pub(crate) fn update(
        &mut self,
        replica: ReplicaId,
        mutate: impl FnOnce(&T, &mut polity_crdt::Writer<'_>) -> Change<T>,
    ) -> Change<T> {
        self.0.update_as(replica, mutate)
    }

    /// The writes of which something is there.
    pub(crate) fn live(&self) -> VersionVector {
        self.0.live()
    }

    /// All that a replica has counted up to here is known, and gone where it is not here. Returns whether not all of it was known.
    pub(crate) fn claim(&mut self, replica: ReplicaId, above: u64) -> bool {
        let is_news = self.context().max(replica) < above;
        if is_news {
            self.kill(&VersionVector::up_to(replica, above).difference(&self.0.live()));
        }
        is_news
    }

    /// These writes are gone. Returns whether anything was new.
    pub(crate) fn kill(&mut self, dots: &VersionVector) -> bool {
        let mut gone = T::Delta::default();
        gone.kill(dots);
        self.0.merge(gone)
    }

    /// Removes all that is there, and nothing that is not known here. Returns whether anything was.
    pub(crate) fn clear(&mut self) -> bool {
        let live = self.0.live();
        let mut removal = T::Delta::default();
        removal.kill(&live);
        !live.is_empty() && self.0.merge(removal)
    }
}
