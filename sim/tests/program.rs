//! The program as it is called: what it prints, how it ends, and that two processes see the same run.

use std::process::{Command, Output};

const SCENARIOS: [&str; 14] = [
    "formation",
    "kill",
    "partition",
    "restart",
    "rolling",
    "upgrade",
    "rotation",
    "alone",
    "pairs",
    "mix",
    "outage",
    "disks",
    "away",
    "kinds",
];

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

/// A folder of this test's own, which is empty.
fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("polity-sim-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    folder
}

/// Promise D1.
#[test]
fn a_seed_has_the_same_trace_in_two_processes() {
    for scenario in SCENARIOS {
        let call = format!("run {scenario} --seed 1");
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(|| polity_sim(&call));
            (polity_sim(&call), other.join().expect("the program runs"))
        });
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

/// A case and a history survive their files: the case replays to the same trace, the judge finds the same.
#[test]
fn a_run_is_kept_replayed_judged_and_reported() {
    let folder = folder("kept");
    let path = |name: &str| folder.join(name).display().to_string();
    let (case, history, page) = (path("case.json"), path("history.jsonl"), path("page.html"));
    let ran = polity_sim(&format!("run alone --seed 3 --case {case} --history {history}"));
    assert_eq!(verdict(&ran), verdict(&polity_sim(&format!("replay {case}"))));
    let judged = polity_sim(&format!("judge {history}"));
    assert_eq!(judged.status.code(), Some(0));
    assert_eq!(verdict(&judged), "history of scenario=alone seed=3: 0 violations");
    for of in [&case, &history] {
        let reported = polity_sim(&format!("report {of} --into {page}"));
        assert_eq!(reported.status.code(), Some(0), "{}", text(&reported.stderr));
        assert!(std::fs::read_to_string(&page).expect("a page").contains("</html>"));
    }
    std::fs::remove_dir_all(folder).expect("the folder is ours");
}

#[test]
fn the_coverage_of_a_thousand_seeds_is_printed() {
    let output = polity_sim("coverage mix --seeds 0..1000");
    assert!(verdict(&output).starts_with("coverage: runs=1000 classes=31 pairs=465 of 465 least="), "{output:?}");
}

#[test]
fn a_call_that_makes_no_sense_is_told_so_in_one_line() {
    let folder = folder("nonsense");
    let damaged = folder.join("damaged.jsonl").display().to_string();
    std::fs::write(&damaged, "{\"format\": \"polity-history/1\"").expect("it can be written");
    let calls = [
        "run nothing --seed 1",
        "run kill --seed x",
        "swarm kill --seeds 9..3",
        "dance",
        "judge /nowhere/at/all.jsonl",
        "replay /nowhere/at/all.json",
        &format!("judge {damaged}"),
        &format!("report {damaged}"),
    ];
    for call in calls {
        let output = polity_sim(call);
        assert_eq!(output.status.code(), Some(2), "{call}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{call}");
        assert!(output.stdout.is_empty(), "{call}");
    }
}
