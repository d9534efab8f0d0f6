//! The demonstration: a cluster of real processes under a real workload, one of which is killed.
//!
//! `cargo run --release [-- --rows N --seed S]`
//!
//! Five processes of this same program embed a node each, on loopback. This process is not a member: it plays the
//! clients, kills one node with SIGKILL under load, starts it again, adds a sixth, and in the end reads every key back and
//! compares it with what was acknowledged. The exit status is 0 only if all that must hold did.

mod args;
mod client;
mod data;
mod ledger;
mod link;
mod load;
mod node;
mod progress;
mod protocol;
mod report;
mod scenario;
mod stats;
mod table;
mod value;
mod views;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    match Command::parse(std::env::args().skip(1)) {
        Ok(Command::Demo(options)) => demo(options),
        Ok(Command::Node) => match node::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("demo node: {error:#}");
                ExitCode::FAILURE
            }
        },
        Ok(Command::Help) => {
            println!("{}", args::USAGE);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("demo: {problem}");
            ExitCode::from(2)
        }
    }
}

fn demo(options: args::Options) -> ExitCode {
    match scenario::run(&options) {
        Ok(report) => {
            report.print();
            if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("demo: FAILED error={:?}", format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
