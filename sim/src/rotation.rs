//! An operator who changes the cluster's secret again and again, as the documentation of [`polity::Keyring`] says.
//!
//! What it works with is [`Secrets`]: what processes are started with, which outlives them. It asks the first host's
//! node, and goes on where it was when that is started again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polity::cluster::KeyId;
use polity::{Builder, Keyring, KeyringError, Node, NodeName, Secret};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::history::{Event, Host};
use crate::recorder::Recorder;

/// What the operator says in the history when a secret was removed.
pub(crate) const CHANGED: &str = "the secret was changed";

/// How long the operator waits before it asks again.
const AGAIN: Duration = Duration::from_millis(500);

type Bytes = [u8; 32];

/// The secrets with which processes are started.
pub(crate) struct Secrets(Mutex<Known>);

struct Known {
    /// The primary one.
    first: Bytes,
    /// Another that is trusted.
    other: Option<Bytes>,
    /// The secret that all are to have in the end, if that is not so yet.
    target: Option<Bytes>,
    /// How many there were.
    made: u8,
}

impl Default for Secrets {
    fn default() -> Self {
        Self(Mutex::new(Known { first: [7; 32], other: None, target: None, made: 0 }))
    }
}

impl Secrets {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a node what it is to be started with now.
    pub(crate) fn give(&self, builder: Builder) -> Builder {
        let known = self.lock();
        let builder = builder.secret(known.first);
        match known.other {
            Some(other) => builder.also_trust(other),
            None => builder,
        }
    }

    /// The old secret and the new one of the rotation under way, or of one that begins.
    fn rotation(&self) -> (Bytes, Bytes) {
        let mut known = self.lock();
        if known.target.is_none() {
            known.made += 1;
            let mut new = [7; 32];
            new[0] = 100 + known.made;
            (known.other, known.target) = (Some(new), Some(new));
        }
        let target = known.target.expect("set above");
        let other = known.other.expect("there are two during a rotation");
        (if known.first == target { other } else { known.first }, target)
    }

    /// From now on processes seal with the new one.
    fn prefer(&self, (old, new): (Bytes, Bytes)) {
        let mut known = self.lock();
        (known.first, known.other) = (new, Some(old));
    }

    /// From now on they do not know the old one.
    fn forget(&self) {
        let mut known = self.lock();
        (known.other, known.target) = (None, None);
    }
}

/// Changes the secret for as long as the process lives.
pub(crate) async fn rotate(node: Node, secrets: Arc<Secrets>, hosts: Vec<Host>, recorder: Recorder, mut rng: StdRng) {
    loop {
        sleep(Duration::from_millis(rng.random_range(500..4000))).await;
        match change(&node, &secrets, &hosts).await {
            Ok(()) => recorder.event(Event::Note { host: hosts[0], text: CHANGED.to_owned() }),
            Err(KeyringError::Stopped) => return,
            Err(error) => {
                let demand = format!("a secret can be changed: {error}");
                recorder.event(Event::Missed { promise: "M5".to_owned(), demand });
                return;
            }
        }
    }
}

async fn change(node: &Node, secrets: &Secrets, hosts: &[Host]) -> Result<(), KeyringError> {
    let (old, new) = secrets.rotation();
    let secret = |bytes: Bytes| Secret::new(bytes).expect("long enough");
    let (old_key, new_key) = (secret(old).id(), secret(new).id());
    let keyring = node.keyring();
    take(keyring, Step::Install(secret(new))).await?;
    take(keyring, Step::Use(new_key)).await?;
    secrets.prefer((old, new));
    // Whoever is away now and has not got it would be shut out.
    let names: Vec<NodeName> = hosts.iter().filter_map(|host| NodeName::new(&host.to_string()).ok()).collect();
    let all_use_it = || {
        let status = keyring.status();
        let uses = |name| matches!(status.members.get(name), Some(Some(keys)) if keys.primary == new_key);
        names.iter().all(uses)
    };
    while !all_use_it() {
        sleep(AGAIN).await;
    }
    match take(keyring, Step::Remove(old_key)).await {
        // It was removed, and the process that was asked ended before it could say so.
        Ok(()) | Err(KeyringError::Unknown { .. } | KeyringError::Removed { .. }) => {}
        Err(error) => return Err(error),
    }
    secrets.forget();
    Ok(())
}

enum Step {
    Install(Secret),
    Use(KeyId),
    Remove(KeyId),
}

/// Asks for a step until it is done, or cannot be.
async fn take(keyring: &Keyring, step: Step) -> Result<(), KeyringError> {
    loop {
        let outcome = match &step {
            Step::Install(secret) => keyring.install(secret.clone()).await.map(drop),
            Step::Use(key) => keyring.use_key(*key).await,
            Step::Remove(key) => keyring.remove(*key).await,
        };
        match outcome {
            Err(error) if error.is_retryable() => sleep(AGAIN).await,
            outcome => return outcome,
        }
    }
}
