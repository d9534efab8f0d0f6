//! A node is given the messages that bring membership and node state.

#![no_main]

use polity_cluster::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzzing::node_state(data);
});
