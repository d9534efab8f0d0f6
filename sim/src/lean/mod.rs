//! The lean event loop: the sans-IO cores of membership, node state and placement for a thousand nodes and more.
//!
//! Whole nodes in a simulated network of sockets are true to life and slow. Here only the cores run, on one heap of
//! events: no sockets, no runtime, no encryption. Gossip is encoded and decoded as on the wire; push-pull and greetings
//! are handed over as values, delayed as a question and an answer, and lost like datagrams. A run is a function of its
//! seed.
//!
//! | module | idea |
//! |---|---|
//! | [`net`] | hosts, latency, losses, cuts, pauses: the event loop, for members of any protocol |
//! | [`node`] | a process of `polity` as such a member |
//! | [`cluster`] | many of these, what befalls them, and what they agree on |
//! | [`measure`](mod@measure) | figures of a cluster under churn |
//! | `queue` | what will happen, in order |

pub mod cluster;
pub mod measure;
pub mod net;
pub mod node;
mod queue;

pub use cluster::Cluster;
pub use measure::{Figures, measure};
pub use net::{Host, Member, Net, Traffic, Weather, addr, host_of};
pub use node::{Begin, Names, Node, Note, Plan};
