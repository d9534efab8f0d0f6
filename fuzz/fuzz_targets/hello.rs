//! A node is given a hello, or the answer to one.

#![no_main]

use polity_cluster::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzzing::hello(data);
});
