//! What one node claims, keeps, hands over and gives up. Pure.
//!
//! # The rules
//!
//! - The first node of a shard's preference list that is up should own it (*the preferred one*).
//! - Who owns it keeps it until the handoff to the preferred one has been acknowledged. Then it *lets go*: it stops, and
//!   the fence refuses what still carries its epoch. The other then claims with a greater epoch.
//! - If the owner is down, or its boot is over, the preferred one claims with a greater epoch, once that has been so for
//!   [`ClaimConfig::patience`]. Being down does not take anything from the owner; the greater epoch does.
//! - A node that is about to leave is on no preference list, so what it owns is handed over by the first rule.
//! - An owner that learns of a greater epoch stops at once. If it had not let go, there were two owners: a *conflict*, which
//!   the one with the lesser epoch reports.
//! - Who has let go and finds that the other is down, or knows nothing of it, before that has claimed takes the shard back, with a greater epoch: it
//!   still has the state, and nobody else may claim while it is up.
//!
//! # What a node waits for when it starts
//! A boot that has just started knows no claims, and an epoch of its own choosing would be below those that are there: it
//! would win nothing, but others would have to refuse what it does. So it claims nothing before [`Core::handle_learned`]:
//! the driver calls it when its replica of the claims has been compared with those of all members that were up and could be
//! reached, or when there is no other. What it is handed in a [`Fence::new`] from an earlier life counts as well.
//!
//! If *all* that knew of a claim are lost at once, together with what they kept, epochs begin again at 1: so do the
//! effects that they had fenced, unless those were written to something outside. Who writes to such a thing keeps the
//! claims beside it, and hands them in.
//!
//! # What it is for
//! H3: owners overlap for at most detection, patience, and propagation of claims; after heal exactly one is left, because all
//! tables become equal, and only the owner that the greatest epoch names does not stop. The same inputs give the same
//! claims: nothing here is drawn by chance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use polity_cluster::NodeId;

use super::fence::Fence;
use super::sight::Sight;
use super::table::{Claim, Claims};
use crate::mutation::{Mutation, mutated};
use crate::{Epoch, EpochError, ShardCount, ShardId};

/// How long a node waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimConfig {
    /// For how long a shard must have been without an owner, and this node its preferred one, before it claims it. Long
    /// enough that nodes which start together see each other first, and short beside the detection of a failure.
    /// Default: 500 ms.
    pub patience: Duration,
    /// After how long something that failed is tried again: an epoch that was not granted, or a handoff. Default: 1 s.
    pub retry: Duration,
}

impl Default for ClaimConfig {
    fn default() -> Self {
        Self { patience: Duration::from_millis(500), retry: Duration::from_secs(1) }
    }
}

/// How this node stands to a shard that it has claimed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It owns it and serves it.
    Owns,
    /// It owns and serves it while its state is handed to this boot.
    HandingOver(NodeId),
    /// It has let go, for this boot, which has the state and is to claim it.
    LetGo(NodeId),
}

/// What the node is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask the authority for an epoch above `after`, and tell [`Core::handle_epoch`] what it says.
    Seek {
        /// The shard.
        shard: ShardId,
        /// The greatest epoch that is known.
        after: Option<Epoch>,
    },
    /// Write this claim for all to see. It holds from now on: this node owns the shard.
    Claim(Claim),
    /// Begin to hand a shard over.
    HandOver {
        /// The claim under which it is owned.
        claim: Claim,
        /// Who should own it.
        to: NodeId,
    },
    /// Break the handoff off that is under way under this claim. The shard is still owned.
    CancelHandOver(Claim),
    /// Stop serving the shard: it was handed over to `to`. Keep its state until [`Action::Superseded`].
    Release {
        /// The claim under which it was owned.
        claim: Claim,
        /// Who has it now.
        to: NodeId,
    },
    /// Another owns the shard. Stop serving it at once; its state belongs to the other now, as far as that has it.
    Superseded {
        /// The claim that is over.
        claim: Claim,
        /// The one in its place.
        by: Epoch,
    },
    /// Two owned the shard at once, and this node is the one with the lesser epoch: record it, with the state of both.
    Conflict {
        /// This node's claim.
        lost: Claim,
        /// The greater one.
        won: Epoch,
    },
}

#[derive(Clone, Debug)]
struct Mine {
    epoch: Epoch,
    hold: Hold,
    /// Since when it stands so.
    since: Duration,
    /// Before then no handoff is begun: the last one failed.
    not_before: Duration,
    /// It has let go, but the other does not take it.
    is_refused: bool,
}

/// An epoch that was asked for, or is to be asked for again.
#[derive(Clone, Copy, Debug)]
enum Sought {
    Asked,
    RetryAt(Duration),
}

/// The state machine of one boot. There is one of it in the life of a boot.
#[derive(Debug)]
pub struct Core {
    me: NodeId,
    shards: ShardCount,
    config: ClaimConfig,
    fence: Fence,
    sight: Option<Sight>,
    has_learned: bool,
    mine: BTreeMap<ShardId, Mine>,
    /// Since when shards have been without an owner while this node is the preferred one.
    vacant: BTreeMap<ShardId, Duration>,
    sought: BTreeMap<ShardId, Sought>,
    /// What was handed to this node, and under which epoch it was owned before.
    received: BTreeMap<ShardId, Epoch>,
    /// The shards of which a greater epoch has become known since that was last asked.
    news: BTreeSet<ShardId>,
    actions: VecDeque<Action>,
}

impl Core {
    /// The machine of boot `me`, which knows nobody yet, and no claims but those of `fence`.
    #[must_use]
    pub fn new(me: NodeId, shards: ShardCount, config: ClaimConfig, fence: Fence) -> Self {
        Self {
            me,
            shards,
            config,
            fence,
            sight: None,
            has_learned: false,
            mine: BTreeMap::new(),
            vacant: BTreeMap::new(),
            sought: BTreeMap::new(),
            received: BTreeMap::new(),
            news: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    // ---- what is seen of it ---------------------------------------------------------------------------------------

    /// Whose it is.
    #[must_use]
    pub fn me(&self) -> &NodeId {
        &self.me
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> ShardCount {
        self.shards
    }

    /// The claims that are known.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        self.fence.claims()
    }

    /// What refuses effects under old epochs.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// What is seen of the members.
    #[must_use]
    pub fn sight(&self) -> Option<&Sight> {
        self.sight.as_ref()
    }

    /// Whether it has learned what others have claimed, and may claim itself.
    #[must_use]
    pub fn has_learned(&self) -> bool {
        self.has_learned
    }

    /// The epoch under which this node owns a shard and serves it.
    #[must_use]
    pub fn owns(&self, shard: ShardId) -> Option<&Epoch> {
        let mine = self.mine.get(&shard)?;
        (!matches!(mine.hold, Hold::LetGo(_))).then_some(&mine.epoch)
    }

    /// The shards that this node owns and serves, with their epochs.
    pub fn owned(&self) -> impl Iterator<Item = (ShardId, &Epoch)> {
        self.mine.keys().filter_map(|shard| Some((*shard, self.owns(*shard)?)))
    }

    /// How this node stands to a shard that it has claimed, under which epoch, and since when.
    #[must_use]
    pub fn hold(&self, shard: ShardId) -> Option<(&Hold, &Epoch, Duration)> {
        self.mine.get(&shard).map(|mine| (&mine.hold, &mine.epoch, mine.since))
    }

    /// Whether every shard is owned by the node that should own it, as far as is known here.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let Some(sight) = &self.sight else {
            return false;
        };
        let mut shards = self.shards.iter();
        let is_ours = |shard| self.claims().owner(shard) != Some(&self.me) || self.owns(shard).is_some();
        self.has_learned
            && shards.all(|shard| {
                let preferred = sight.preferred(shard);
                preferred.is_some() && self.claims().owner(shard) == preferred.as_ref() && is_ours(shard)
            })
    }

    /// Whether this node owns all that it should own, and nothing that another should own, as far as is known here.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        let Some(sight) = &self.sight else {
            return false;
        };
        let is_in_place = |shard| match (sight.preferred(shard), self.owns(shard)) {
            (Some(preferred), owned) => (preferred == self.me) == owned.is_some(),
            // Nobody can take it.
            (None, _) => true,
        };
        self.has_learned && self.shards.iter().all(is_in_place)
    }

    /// Whether there is nothing that this node owns and that anybody could own: it may go.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.owned().all(|(shard, _)| self.sight.as_ref().is_none_or(|sight| sight.preferred(shard).is_none()))
    }

    /// Since when a shard has had no owner while this node is to claim it.
    #[must_use]
    pub fn vacant_since(&self, shard: ShardId) -> Option<Duration> {
        self.vacant.get(&shard).copied()
    }

    // ---- inputs ---------------------------------------------------------------------------------------------------

    /// The members have changed, as this node sees them.
    pub fn handle_sight(&mut self, now: Duration, sight: Sight) {
        self.sight = Some(sight);
        for shard in self.shards.iter() {
            self.consider(now, shard);
        }
    }

    /// What others have claimed is known now: it may claim itself.
    pub fn handle_learned(&mut self, now: Duration) {
        if !self.has_learned {
            self.has_learned = true;
            for shard in self.shards.iter() {
                self.consider(now, shard);
            }
        }
    }

    /// These claims were made. What is not news changes nothing.
    pub fn handle_claims(&mut self, now: Duration, claims: &Claims) {
        for (shard, epoch) in claims.iter() {
            self.handle_claim(now, Claim { shard, epoch: epoch.clone() });
        }
    }

    /// This claim was made.
    pub fn handle_claim(&mut self, now: Duration, claim: Claim) {
        let shard = claim.shard;
        if !self.shards.contains(shard) || !self.fence.learn(claim) {
            return;
        }
        let by = self.fence.claims().epoch(shard).expect("it was just learned").clone();
        self.news.insert(shard);
        if self.received.get(&shard).is_some_and(|from| *from < by) {
            self.received.remove(&shard);
        }
        if self.mine.get(&shard).is_some_and(|mine| mine.epoch < by) && !mutated(Mutation::ServesSuperseded) {
            let mine = self.mine.remove(&shard).expect("it was just seen");
            self.give_up(Claim { shard, epoch: mine.epoch }, &mine.hold, by);
        }
        self.consider(now, shard);
    }

    /// The authority was asked for an epoch, and says this.
    pub fn handle_epoch(&mut self, now: Duration, shard: ShardId, answer: Result<Epoch, EpochError>) {
        self.sought.remove(&shard);
        let is_above = |epoch: &Epoch| self.claims().epoch(shard).is_none_or(|known| known < epoch);
        match answer {
            Ok(epoch) if epoch.owner == self.me && (is_above(&epoch) || mutated(Mutation::ForgetsEpochs)) => {
                if self.patience_for(shard).is_some() {
                    self.own(now, Claim { shard, epoch });
                }
            }
            Err(EpochError::Granted(epoch)) => {
                self.sought.insert(shard, Sought::RetryAt(now + self.config.retry));
                self.handle_claim(now, Claim { shard, epoch });
            }
            // None, or not above what is known by now: again, above that.
            Ok(_) | Err(_) => {
                self.sought.insert(shard, Sought::RetryAt(now + self.config.retry));
            }
        }
        self.consider(now, shard);
    }

    /// The receiver has installed the state and acknowledged it: the shard is let go. Returns whether it is: not if
    /// another handoff, or none, is under way by now.
    pub fn handle_acknowledged(&mut self, now: Duration, claim: &Claim, by: &NodeId) -> bool {
        let Some(mine) = self.mine.get_mut(&claim.shard).filter(|mine| mine.epoch == claim.epoch) else {
            return false;
        };
        match &mine.hold {
            Hold::HandingOver(to) if to == by => {}
            hold => return *hold == Hold::LetGo(by.clone()),
        }
        (mine.hold, mine.since) = (Hold::LetGo(by.clone()), now);
        self.fence.close(claim.shard, claim.epoch.clone(), by.clone());
        self.actions.push_back(Action::Release { claim: claim.clone(), to: by.clone() });
        self.consider(now, claim.shard);
        true
    }

    /// The handoff under this claim has come to nothing. The shard is still owned.
    pub fn handle_failed(&mut self, now: Duration, claim: &Claim) {
        let Some(mine) = self.mine.get_mut(&claim.shard).filter(|mine| mine.epoch == claim.epoch) else {
            return;
        };
        if matches!(mine.hold, Hold::HandingOver(_)) {
            (mine.hold, mine.since, mine.not_before) = (Hold::Owns, now, now + self.config.retry);
        }
    }

    /// This node has let go, and the other says that it does not know of what it was handed: the shard is taken back.
    pub fn handle_refused(&mut self, now: Duration, claim: &Claim) {
        let mine = self.mine.get_mut(&claim.shard).filter(|mine| mine.epoch == claim.epoch);
        if let Some(mine) = mine.filter(|mine| matches!(mine.hold, Hold::LetGo(_))) {
            mine.is_refused = true;
            self.consider(now, claim.shard);
        }
    }

    /// A shard was handed to this node: its state is installed, and the owner under `claim` has let go.
    pub fn handle_received(&mut self, now: Duration, claim: &Claim) {
        if !self.shards.contains(claim.shard) {
            return;
        }
        self.handle_claim(now, claim.clone());
        if self.claims().epoch(claim.shard) == Some(&claim.epoch) && claim.epoch.owner != self.me {
            self.received.insert(claim.shard, claim.epoch.clone());
            self.consider(now, claim.shard);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        let waiting: Vec<_> = self.deadlines().filter(|(_, due)| *due <= now).map(|(shard, _)| shard).collect();
        for shard in waiting {
            if matches!(self.sought.get(&shard), Some(Sought::RetryAt(_))) {
                self.sought.remove(&shard);
            }
            self.consider(now, shard);
        }
    }

    // ---- outputs --------------------------------------------------------------------------------------------------

    /// What is to be done next, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A shard of which a greater epoch is known than when this was last said of it.
    pub fn poll_news(&mut self) -> Option<ShardId> {
        self.news.pop_first()
    }

    /// When [`Core::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.deadlines().map(|(_, due)| due).min()
    }

    fn deadlines(&self) -> impl Iterator<Item = (ShardId, Duration)> {
        let vacant = self.vacant.iter().filter(|(shard, _)| !self.sought.contains_key(shard));
        let vacant = vacant.map(|(shard, since)| (*shard, *since + self.config.patience));
        let sought = self.sought.iter().filter_map(|(shard, sought)| match sought {
            Sought::RetryAt(at) => Some((*shard, *at)),
            Sought::Asked => None,
        });
        let postponed = self.mine.iter().filter(|(_, mine)| mine.hold == Hold::Owns && !mine.not_before.is_zero());
        vacant.chain(sought).chain(postponed.map(|(shard, mine)| (*shard, mine.not_before)))
    }

    // ---- decisions ------------------------------------------------------------------------------------------------

    fn give_up(&mut self, claim: Claim, hold: &Hold, by: Epoch) {
        if let Hold::HandingOver(_) = hold {
            self.actions.push_back(Action::CancelHandOver(claim.clone()));
        }
        self.actions.push_back(Action::Superseded { claim: claim.clone(), by: by.clone() });
        if !matches!(hold, Hold::LetGo(_)) && !mutated(Mutation::QuietLoser) {
            self.actions.push_back(Action::Conflict { lost: claim, won: by });
        }
    }

    fn own(&mut self, now: Duration, claim: Claim) {
        let Claim { shard, epoch } = claim.clone();
        self.vacant.remove(&shard);
        self.received.remove(&shard);
        self.fence.learn(claim.clone());
        self.news.insert(shard);
        self.mine
            .insert(shard, Mine { epoch, hold: Hold::Owns, since: now, not_before: Duration::ZERO, is_refused: false });
        self.actions.push_back(Action::Claim(claim));
    }

    /// Decides again about one shard.
    fn consider(&mut self, now: Duration, shard: ShardId) {
        self.consider_handoff(now, shard);
        let Some(patience) = self.patience_for(shard) else {
            self.vacant.remove(&shard);
            return;
        };
        let since = *self.vacant.entry(shard).or_insert(now);
        if now >= since + patience && !self.sought.contains_key(&shard) {
            self.sought.insert(shard, Sought::Asked);
            let after = self.claims().epoch(shard).filter(|_| !mutated(Mutation::ForgetsEpochs)).cloned();
            self.actions.push_back(Action::Seek { shard, after });
        }
    }

    /// Whether a shard that this node owns should move, or no longer should.
    fn consider_handoff(&mut self, now: Duration, shard: ShardId) {
        let (Some(sight), Some(mine)) = (&self.sight, self.mine.get_mut(&shard)) else {
            return;
        };
        let preferred = sight.preferred(shard);
        let claim = || Claim { shard, epoch: mine.epoch.clone() };
        if let Hold::HandingOver(to) = &mine.hold {
            if preferred.as_ref() == Some(to) || preferred.is_none() && sight.is_up(to) {
                return;
            }
            self.actions.push_back(Action::CancelHandOver(claim()));
            (mine.hold, mine.since) = (Hold::Owns, now);
        }
        let Some(to) = preferred.filter(|to| *to != self.me) else {
            mine.not_before = Duration::ZERO;
            return;
        };
        if mine.hold == Hold::Owns && now >= mine.not_before && !mutated(Mutation::KeepsForGood) {
            self.actions
                .push_back(Action::HandOver { claim: Claim { shard, epoch: mine.epoch.clone() }, to: to.clone() });
            (mine.hold, mine.since, mine.not_before) = (Hold::HandingOver(to), now, Duration::ZERO);
        }
    }

    /// For how long a shard must be as it is before this node claims it; `None` if it is not to.
    fn patience_for(&self, shard: ShardId) -> Option<Duration> {
        let sight = self.sight.as_ref()?;
        if !self.has_learned && !mutated(Mutation::ClaimsUnlearned) {
            return None;
        }
        if let Some(mine) = self.mine.get(&shard) {
            return match &mine.hold {
                Hold::LetGo(to) => (mine.is_refused || !sight.is_up(to)).then_some(Duration::ZERO),
                Hold::Owns | Hold::HandingOver(_) => None,
            };
        }
        let claim = self.claims().epoch(shard);
        if claim.is_some() && claim == self.received.get(&shard) {
            return Some(Duration::ZERO);
        }
        let is_owned = claim.is_some_and(|epoch| epoch.owner != self.me && sight.is_up(&epoch.owner));
        (!is_owned && sight.preferred(shard).as_ref() == Some(&self.me)).then_some(self.config.patience)
    }
}

#[cfg(test)]
mod tests;
