//! Whole clusters of `polity` in a deterministic simulated network, with faults, checkers and seeds.
//!
//! A run is a function of a scenario and a seed: the network, the faults, the clients and the nodes' own randomness all
//! follow from the seed, and time is simulated. What happens is recorded as a history, which the checkers judge, one
//! promise each; a trace tells whether two runs were the same.
//!
//! | module | idea |
//! |---|---|
//! | [`scenario`] | how a world is drawn and what befalls it, one a file |
//! | [`world`] | hosts, links, processes, clients, and demands on them |
//! | [`process`] | what runs on a host: one whole node and its clients |
//! | [`workload`] | what the clients do |
//! | [`network`] | cuts and losses |
//! | [`recorder`] | takes down the history and the trace |
//! | [`history`] | what happened, in order |
//! | [`causality`] | which writes may have replaced which |
//! | [`checker`] | judges of a history, one promise a file |
//! | [`run`] | a scenario and a seed, from beginning to verdict |
//! | [`swarm`] | many seeds on all cores |
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
pub mod network;
pub mod play;
pub mod process;
pub mod recorder;
pub mod report;
pub mod run;
pub mod scenario;
pub mod settings;
pub mod shrink;
pub mod swarm;
mod text;
mod watchdog;
pub mod workload;
pub mod world;
