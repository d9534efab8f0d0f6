//! What is known of one member, and which of two sayings about it holds.

use serde::{Deserialize, Serialize};

use super::handle::Handle;
use crate::buckets::{NameKey, Row};

/// Whether a member is there, as the failure detector has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum State {
    Alive,
    Suspect,
    Down,
}

/// What is known of a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    id: Handle,
    /// Only the member itself raises it, to refute a suspicion.
    incarnation: u32,
    state: State,
}

impl Member {
    pub(crate) fn new(id: Handle, incarnation: u32, state: State) -> Self {
        Self { id, incarnation, state }
    }

    pub(crate) fn alive(id: Handle) -> Self {
        Self::new(id, 0, State::Alive)
    }

    pub(crate) fn down(id: Handle) -> Self {
        Self::new(id, 0, State::Down)
    }

    pub(crate) fn id(&self) -> &Handle {
        &self.id
    }

    pub(crate) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Alive or suspect: it takes part.
    pub(crate) fn is_up(&self) -> bool {
        self.state != State::Down
    }

    /// Whether this, being heard, takes the place of what is `known` (SWIM, section 4.2). A newer identity always does.
    /// Down is final for an identity: its member comes back under the next `rejoin`.
    pub(crate) fn overrides(&self, known: &Self) -> bool {
        let (told, holds) = (self.id.precedence(), known.id.precedence());
        if told != holds {
            return told > holds;
        }
        match (self.state, known.state) {
            (_, State::Down) => false,
            (State::Down, _) => true,
            (State::Suspect, State::Alive) => self.incarnation >= known.incarnation,
            (State::Suspect, State::Suspect) | (State::Alive, _) => self.incarnation > known.incarnation,
        }
    }
}

impl Row for Member {
    fn key(&self) -> NameKey {
        self.id.key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Boot, Identity, NodeId, NodeName};

    /// Of two different sayings exactly one holds, whatever the order in which they are heard.
    #[test]
    fn sayings_are_ordered() {
        let id = |generation, rejoin| {
            let name = NodeName::new("a").expect("valid");
            let node = NodeId { name, boot: Boot { generation, nonce: 1 } };
            Handle::from(Identity { node, rejoin, addr: "127.0.0.1:1".parse().expect("an address") })
        };
        let states = [State::Alive, State::Suspect, State::Down];
        let mut all = Vec::new();
        for (generation, rejoin) in [(1, 0), (1, 1), (2, 0)] {
            for incarnation in 0..3 {
                all.extend(states.map(|state| Member::new(id(generation, rejoin), incarnation, state)));
            }
        }
        for (at, one) in all.iter().enumerate() {
            assert!(!one.overrides(one));
            for other in &all[at + 1..] {
                let down = one.id == other.id && !one.is_up() && !other.is_up();
                assert!(down || one.overrides(other) != other.overrides(one), "{one:?} and {other:?}");
            }
        }
    }
}
