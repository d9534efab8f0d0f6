//! Whole clusters of `polity` in a deterministic simulated network, with faults, checkers and seeds.
//!
//! A run is a function of a *case*: a seed, settings, and the faults that strike. Scenarios draw cases from seeds; files
//! hold them. The network, the clients and the nodes' own randomness follow from the seed, and time is simulated. What
//! happens is recorded as a history, which the checkers judge, one promise each; a trace over every byte that was sent
//! tells whether two runs were the same.
//!
//! To simulate a program of your own, build a [`world::World`] with it: `sim/examples/your_program.rs` does.
//!
//! | module | idea |
//! |---|---|
//! | [`scenario`] | how a world is drawn and what befalls it, one a file |
//! | [`case`] | what a run is a function of, as data |
//! | [`settings`] | how a world is built |
//! | [`fault`] | what can befall a world, one family a file |
//! | [`play`] | lets a case happen |
//! | [`world`] | hosts, links, processes, clients, and demands on them |
//! | [`process`] | what runs on a host: a program with a node in it |
//! | `rotation` | an operator who changes the secret |
//! | [`workload`] | what the clients do, one kind a file |
//! | [`network`] | what links do to datagrams |
//! | [`recorder`] | takes down the history and the trace |
//! | [`history`] | what happened, in order |
//! | [`journal`] | histories as JSON lines |
//! | [`causality`] | which writes may have replaced which |
//! | [`checker`] | judges of a history, one promise a file |
//! | [`run`] | a case, from beginning to verdict |
//! | [`swarm`] | many seeds on all cores |
//! | [`coverage`] | which faults met which |
//! | [`shrink`] | makes a case that fails smaller |
//! | [`report`] | a run as a page |
//! | [`lean`] | a thousand memberships without sockets and without turmoil |
//! | [`soak`] | presence alone, for a simulated day |
//! | `watchdog` | ends the program when a run hangs |
//! | [`cli`] | the program |

pub mod case;
pub mod causality;
pub mod checker;
pub mod cli;
pub mod coverage;
pub mod fault;
pub mod history;
pub mod journal;
pub mod lean;
pub mod network;
pub mod play;
pub mod process;
pub mod recorder;
pub mod report;
mod rotation;
pub mod run;
pub mod scenario;
pub mod settings;
pub mod shrink;
pub mod soak;
pub mod swarm;
mod text;
mod watchdog;
pub mod workload;
pub mod world;
