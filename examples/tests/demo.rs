//! The demonstration itself, with real processes and few rows.

use std::process::{Command, Output};

fn demo(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demo")).args(args).output().expect("the demonstration starts")
}

#[test]
fn a_killed_node_loses_nothing_that_was_acknowledged() {
    let output = demo(&["--rows", "3000", "--seed", "7"]);
    let (said, progress) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let last = said.lines().last().unwrap_or_default();
    assert!(output.status.success() && last.starts_with("demo: ok "), "{said}\n{progress}");
    assert!(last.split_whitespace().any(|figure| figure == "lost=0"), "{last}");
    assert!(said.contains("synthetic") && said.contains("CC BY 4.0"), "{said}");
}

#[test]
fn arguments_that_make_no_sense_are_refused_in_one_line() {
    for args in [&["--fast"][..], &["--rows", "0"], &["--rows"], &["--seed", "x"]] {
        let output = demo(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{args:?}");
    }
}

#[test]
fn the_program_in_the_readme_is_the_one_that_compiles() {
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    assert!(readme.contains(include_str!("../src/bin/hello.rs")), "README.md shows another program than hello.rs");
}
