//! A node is given payloads of gossip.

#![no_main]

use polity_cluster::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzzing::gossip(data);
});
