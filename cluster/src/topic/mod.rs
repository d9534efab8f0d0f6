//! Topics: messages from whoever publishes to whoever subscribes, on any nodes.
//!
//! A message goes straight from its publisher's node to each node that has a subscriber, once, and to no other. It is kept
//! until it is acknowledged, so what is lost on the way is sent again. Nothing is stored: who was not subscribed, or not
//! connected, does not get it, and is told that it has missed something.
//!
//! | module | idea |
//! |---|---|
//! | `publisher` | what was published here and is not acknowledged yet: pure |
//! | `subscriber` | what is expected of each publisher, and the queues of subscribers: pure |
//! | `hub` | what handles, driver and peers share: both of them, and the directory |
//! | `driver` | the task that carries out what the publisher asks for |
//! | `message` | what goes over the wire |
//!
//! Who subscribes to what is a replicated document, an owner map from topics to subscriptions, which the nodes hold that
//! use topics: so a subscription costs a few bytes on each of them, and a node that publishes knows whom to send to without
//! asking.
//!
//! # Guarantees
//! P1 in `docs/SEMANTICS.md`. A subscription is *connected* to a node from when that node knows of it
//! ([`TopicSubscription::established`] waits for that), until one of them takes the other for down. While it is, it gets
//! what is published there, in order, each message once, or a [`TopicEvent::Gap`] in the place of what was lost. When both
//! see each other again, it begins with a gap that says how much was missed.

mod driver;
mod hub;
mod message;
#[cfg(all(test, not(feature = "shuttle")))]
mod network;
mod publisher;
mod subscriber;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use self::hub::Hub;
pub(crate) use self::hub::Topics;
use self::subscriber::Event;
use crate::identity::NodeId;

/// The longest name of a topic, in bytes.
pub const MAX_TOPIC_NAME_BYTES: usize = 128;
/// The largest message, in bytes, encoded: what is larger holds up all that come after it.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// The most topics that a node uses, over its whole life: the count of each must not be forgotten.
pub const MAX_TOPICS: usize = 65_536;

/// What a topic would not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The name is empty or too long.
    #[error("the name of a topic has 1 to {MAX_TOPIC_NAME_BYTES} bytes; this one has {0}")]
    Name(usize),
    /// The node uses a topic of this name for messages of another type.
    #[error("the topic {0:?} is used for messages of another type")]
    OtherType(String),
    /// The node uses as many topics as it may. Use fewer names.
    #[error("this node has used {MAX_TOPICS} topics")]
    TooMany,
    /// The message does not encode. It was not published.
    #[error("the message does not encode: {0}")]
    Encode(String),
    /// The message is too large. It was not published.
    #[error("a message has at most {MAX_MESSAGE_BYTES} bytes; this one has {0}")]
    TooLarge(usize),
    /// Subscribed nodes take messages more slowly than they are published here. The message was not published; try again.
    #[error("more is published than the subscribed nodes take")]
    Overloaded,
    /// The node has stopped. The message was not published.
    #[error("the node has stopped")]
    Stopped,
}

impl TopicError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Overloaded)
    }
}

/// Why messages did not get here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// This subscriber has not taken its events fast enough.
    Slow,
    /// The nodes could not reach each other, or this one took too long.
    Lost,
    /// The message is of another type.
    Undecodable,
}

/// What a subscriber gets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopicEvent<T> {
    /// A message.
    Received {
        /// The node on which it was published.
        publisher: NodeId,
        /// Which of the messages of this topic on that node it is, from 1.
        sequence: u64,
        /// What was published.
        value: T,
    },
    /// Messages that will not come: those that follow the last one of this publisher.
    Gap {
        /// The node on which they were published.
        publisher: NodeId,
        /// How many.
        missed: u64,
        /// Why.
        cause: GapCause,
    },
}

/// What a node does for its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TopicStats {
    /// Messages that wait to be acknowledged, over all subscribed nodes.
    pub waiting: usize,
    /// Messages that were dropped because a subscribed node stood still.
    pub dropped: u64,
}

/// A topic, for publishing and subscribing. Cheap to clone; see [`Node::topic`](crate::Node::topic).
pub struct Topic<T> {
    hub: Arc<Hub>,
    name: Arc<str>,
    types: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        Self { hub: self.hub.clone(), name: self.name.clone(), types: PhantomData }
    }
}

impl<T> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T: Serialize + DeserializeOwned> Topic<T> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Publishes a message to all who subscribe, on this node too. Returns its sequence: which message of this topic it is
    /// on this node, from 1.
    ///
    /// Returns when the message is on its way, not when it has arrived. It waits, for some seconds at most, right after
    /// the topics of this node were first used, until it is known who subscribes; and while subscribed nodes take messages
    /// more slowly than they are published. A node that takes none at all is not waited for. Cancel safe: a call that was
    /// dropped has published nothing.
    ///
    /// # Errors
    /// See [`TopicError`]: nothing was published then.
    pub async fn publish(&self, value: &T) -> Result<u64, TopicError> {
        let body = postcard::to_allocvec(value).map_err(|error| TopicError::Encode(error.to_string()))?;
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(TopicError::TooLarge(body.len()));
        }
        self.hub.publish(&self.name, &Bytes::from(body)).await
    }

    /// Subscribes. Returns at once; what is published here is received from now on, what is published elsewhere as soon as
    /// the news has got there ([`TopicSubscription::established`]).
    ///
    /// # Errors
    /// [`TopicError::Stopped`].
    pub fn subscribe(&self) -> Result<TopicSubscription<T>, TopicError> {
        self.subscribe_within(subscriber::QUEUE_EVENTS)
    }

    /// As [`Topic::subscribe`], and so many events wait for the subscriber at most, beside a limit of 8 MiB. What comes
    /// when there is no room is counted, and told of as a gap.
    ///
    /// # Errors
    /// [`TopicError::Stopped`].
    pub fn subscribe_within(&self, events: usize) -> Result<TopicSubscription<T>, TopicError> {
        let (number, epoch, wake) = self.hub.subscribe(&self.name, events)?;
        Ok(TopicSubscription {
            hub: self.hub.clone(),
            topic: self.name.clone(),
            number,
            epoch,
            wake,
            types: PhantomData,
        })
    }

    /// Waits until every subscribed node has what was published on this node, on all its topics, or is down. Cancel safe.
    ///
    /// # Errors
    /// [`TopicError::Stopped`].
    pub async fn flushed(&self) -> Result<(), TopicError> {
        self.hub.flushed().await
    }

    /// What this node does for all its topics.
    #[must_use]
    pub fn stats(&self) -> TopicStats {
        self.hub.stats()
    }
}

/// A stream of [`TopicEvent`]s. Dropped, it ends the subscription.
pub struct TopicSubscription<T> {
    hub: Arc<Hub>,
    topic: Arc<str>,
    number: u64,
    epoch: u64,
    wake: Arc<Notify>,
    types: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> TopicSubscription<T> {
    /// Waits until every node that is up now knows of this subscription: whatever is published on any of them after that is
    /// received, or reported as missed. Cancel safe.
    ///
    /// A node that joins later asks who subscribes before it publishes its first message, for three seconds at most: in a
    /// cluster of up to 33 nodes everyone, half a second each if they do not answer, and the silent once more after all others.
    /// So it nearly always learns of the subscription in time. If it does not, this subscriber gets what is published there
    /// from when it does, and is not told of what was before.
    ///
    /// # Errors
    /// [`TopicError::Stopped`].
    pub async fn established(&self) -> Result<(), TopicError> {
        self.hub.established(&self.topic, self.epoch).await
    }

    /// The next event. Cancel safe: an event that was not returned is returned next time. After the node has stopped it
    /// waits for ever.
    pub async fn next(&mut self) -> TopicEvent<T> {
        loop {
            let notified = self.wake.clone();
            if let Some(event) = self.try_next() {
                return event;
            }
            // What is delivered between the look and here has left a permit.
            notified.notified().await;
        }
    }

    /// The next event if there is one now.
    pub fn try_next(&mut self) -> Option<TopicEvent<T>> {
        Some(match self.hub.pop(&self.topic, self.number)? {
            Event::Gap { publisher, missed, cause } => TopicEvent::Gap { publisher, missed, cause },
            Event::Message { publisher, sequence, body } => match postcard::take_from_bytes(&body) {
                Ok((value, [])) => TopicEvent::Received { publisher, sequence, value },
                _ => TopicEvent::Gap { publisher, missed: 1, cause: GapCause::Undecodable },
            },
        })
    }
}

impl<T> Drop for TopicSubscription<T> {
    fn drop(&mut self) {
        self.hub.unsubscribe(&self.topic, self.number);
    }
}

impl<T> fmt::Debug for TopicSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicSubscription").field("topic", &self.topic).finish_non_exhaustive()
    }
}
