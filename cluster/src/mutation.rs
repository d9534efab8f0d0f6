//! Deliberate faults of the system, one at a time: each is a bug that a system like this one could have, and that a
//! checker of the simulator must catch.
//!
//! At a mutation point the code asks [`mutated`]. Without the feature `mutations` the answer is `false` when the code is
//! compiled, and nothing is left of the point. With it, it is `true` for the one fault that `set` has given to this
//! thread; a simulated world runs on one thread.

#[cfg(feature = "mutations")]
use std::cell::Cell;
use std::fmt;

macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// What is wrong.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mutation {
            $($(#[doc = $doc])+ $name,)+
        }

        /// All of them.
        pub const ALL: &[Mutation] = &[$(Mutation::$name,)+];

        impl Mutation {
            /// What it is called on a command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

mutations! {
    /// A suspect is never declared down.
    SuspectsStay = "suspects-stay",
    /// A node takes whoever does not answer it for dead, however slow it is itself and whoever else accuses.
    NoLocalHealth = "no-local-health",
    /// A member that was down stays down in the list when it has come back.
    DownForGood = "down-for-good",
    /// A process that starts takes the boot of the one before.
    BootUsedAgain = "boot-used-again",
    /// Whoever knows the secret is let in, whatever its cluster is called.
    AdmitsOtherClusters = "admits-other-clusters",
    /// A datagram is taken as often as it arrives.
    TakesReplays = "takes-replays",
    /// A node takes an id for its cluster to be chosen as soon as it has accepted it itself.
    MintsAlone = "mints-alone",
    /// A node is taken for whom it says it is, whatever its certificate says.
    BelievesNames = "believes-names",
    /// A key is made the primary while members lack it.
    UsesKeysUnheld = "uses-keys-unheld",
    /// A node drops a removed key while members seal with it.
    DropsKeysAtOnce = "drops-keys-at-once",
    /// A subscriber that is behind is told the newest change, and not those before it.
    SkipsChanges = "skips-changes",
    /// A node places shards without regard to zones once it has seen many changes.
    ForgetsZones = "forgets-zones",
    /// A write is acknowledged when one replica has it.
    AckAlone = "ack-alone",
    /// A read asks one replica, whatever its level.
    ReadsOne = "reads-one",
    /// A replica takes itself to have caught up as soon as it has a shard.
    ReadyAtOnce = "ready-at-once",
    /// A replica that compares itself with another does not fetch what it lacks, and neither reads nor hints mend anything.
    FetchesNothing = "fetches-nothing",
    /// Replicas become equal only when placement changes: neither comparisons, nor reads, nor hints mend anything.
    NeverPatrols = "never-patrols",
    /// What belongs to others now is never dropped.
    KeepsWhatItGave = "keeps-what-it-gave",
    /// A write replaces all values of its key, those that it has not seen too.
    ReplacesUnseen = "replaces-unseen",
    /// A write that is asked for again under its idempotency key is done again.
    ForgetsIdempotencyKeys = "forgets-idempotency-keys",
    /// What two replicas add to a counter under one idempotency key is not the same.
    CountsTwice = "counts-twice",
    /// A put takes away what it finds elsewhere afterwards, also what is still being written.
    ReplacesWhatIsBeingWritten = "replaces-what-is-being-written",
    /// The context that a write returns covers siblings that its writer has not seen.
    KnowsTooMuch = "knows-too-much",
    /// A read returns one of several siblings, with the context of all.
    HidesSiblings = "hides-siblings",
    /// A replica does not take over the trace of a delete.
    ForgetsDeletes = "forgets-deletes",
    /// A replica of a document never compares itself with another.
    NeverCompares = "never-compares",
    /// A replica of a document takes what it is sent for news, whatever it has heard of.
    ForgetsContext = "forgets-context",
    /// A presence lists the entries of nodes that are down.
    GhostsStay = "ghosts-stay",
    /// The entries of a node that has come back are not listed again.
    ComesBackUnseen = "comes-back-unseen",
    /// A subscriber is not told of messages that will not reach it.
    QuietGaps = "quiet-gaps",
    /// A message of a topic that is sent again is delivered again.
    DeliversTwice = "delivers-twice",
    /// Traces of deletes are dropped when they have lain for long enough, whoever is down, and nobody is asked.
    CollectsUnasked = "collects-unasked",
    /// What is acknowledged is not on disk yet.
    AcksBeforeDurable = "acks-before-durable",
    /// A fence is not kept on disk.
    ForgetsFences = "forgets-fences",
    /// A watch does not look again for what it may have missed.
    NeverLooksAgain = "never-looks-again",
    /// A read gives what has expired until a replica has removed it.
    ShowsExpired = "shows-expired",
    /// A write to what has expired tells others what was written, and not what has gone.
    TellsTheStepOnly = "tells-the-step-only",
    /// When the time has passed that a set or counter was to live for, all is gone, also what was added by who had not heard of that.
    ExpiresUnseen = "expires-unseen",
    /// What a counter had counted before it was removed counts again with what is added.
    BringsBackCounts = "brings-back-counts",
    /// What is to expire later than was said is acknowledged, and not done.
    ForgetsRenewals = "forgets-renewals",
    /// A last value is written as of no time: of two that were written at the same time any stays.
    StampsNothing = "stamps-nothing",
    /// Of last values that were written at the same time that of the greatest writer stays, whatever the clocks say.
    IgnoresTime = "ignores-time",
    /// Of what a key holds of several kinds the least shows.
    ShowsTheLeast = "shows-the-least",
    /// A key that holds one kind takes others, too.
    TakesAnyKind = "takes-any-kind",
    /// A removal from a set or map takes away all that is there, at whoever hears of it.
    RemovesUnseen = "removes-unseen",
    /// A write that too few replicas have confirmed is reported as not applied.
    DeniesWrites = "denies-writes",
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(feature = "mutations")]
thread_local! {
    static CURRENT: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Sets what is wrong on this thread from now on.
#[cfg(feature = "mutations")]
pub fn set(mutation: Option<Mutation>) {
    CURRENT.set(mutation);
    polity_crdt::mutation::set(match mutation {
        Some(Mutation::NeverCompares) => Some(polity_crdt::mutation::Mutation::NeverCompares),
        Some(Mutation::ForgetsContext) => Some(polity_crdt::mutation::Mutation::ForgetsContext),
        Some(Mutation::IgnoresTime) => Some(polity_crdt::mutation::Mutation::IgnoresTime),
        _ => None,
    });
}

/// Whether this is what is wrong.
#[cfg(feature = "mutations")]
#[must_use]
pub fn mutated(mutation: Mutation) -> bool {
    CURRENT.get() == Some(mutation)
}

/// Whether this is what is wrong: never.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn mutated(_: Mutation) -> bool {
    false
}
