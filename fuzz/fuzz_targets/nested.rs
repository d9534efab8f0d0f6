//! Deltas of maps of maps.

#![no_main]

use polity_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = hostile::delta::<hostile::Deep>(data, false);
});
