//! The program as it is called: what it prints, how it ends, and that two processes see the same run.

use std::process::{Command, Output};

const SCENARIOS: [&str; 5] = ["formation", "kill", "partition", "restart", "rolling"];

fn polity_sim(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_polity-sim")).args(args.split_whitespace()).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last line of a run.
fn verdict(output: &Output) -> String {
    text(&output.stdout).lines().last().expect("a run ends in a line").to_owned()
}

#[test]
fn list_prints_a_name_first_on_each_line() {
    let output = polity_sim("list");
    assert_eq!(output.status.code(), Some(0));
    let names: Vec<String> =
        text(&output.stdout).lines().map(|line| line.split_whitespace().next().unwrap_or("").to_owned()).collect();
    assert_eq!(names, SCENARIOS);
}

/// Promise D1.
#[test]
fn a_seed_has_the_same_trace_in_two_processes() {
    for scenario in SCENARIOS {
        let call = format!("run {scenario} --seed 1");
        let (first, second) = (polity_sim(&call), polity_sim(&call));
        assert_eq!(verdict(&first), verdict(&second));
        assert_eq!(text(&first.stdout), text(&second.stdout));
        let trace = verdict(&first);
        let trace = trace.split_whitespace().find_map(|word| word.strip_prefix("trace=")).expect("a trace");
        assert!(u64::from_str_radix(trace, 16).expect("a hash") != 0, "{trace}");
        assert_eq!(verdict(&first), format!("scenario={scenario} seed=1 trace={trace} verdict=ok"));
        assert_eq!(first.status.code(), Some(0));
    }
}

#[test]
fn another_seed_has_another_trace() {
    let traces = ["run formation --seed 1", "run formation --seed 2"].map(|call| verdict(&polity_sim(call)));
    let trace = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
    assert_ne!(trace(&traces[0]), trace(&traces[1]));
}

#[test]
fn a_swarm_says_how_it_went() {
    let output = polity_sim("swarm formation --seeds 5..7");
    let lines = text(&output.stdout);
    for seed in 5..7 {
        assert!(
            lines.lines().any(|line| line.starts_with(&format!("scenario=formation seed={seed} trace="))),
            "{lines}"
        );
    }
    assert!(verdict(&output).starts_with("swarm: runs=2 failed=0 "), "{lines}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_call_that_makes_no_sense_is_told_so_in_one_line() {
    for call in ["run nothing --seed 1", "run kill --seed x", "swarm kill --seeds 9..3", "dance"] {
        let output = polity_sim(call);
        assert_eq!(output.status.code(), Some(2), "{call}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{call}");
        assert!(output.stdout.is_empty(), "{call}");
    }
}
