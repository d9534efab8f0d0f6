//! A node is given datagrams, sealed ones too.

#![no_main]

use polity_cluster::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzzing::envelope(data);
});
