//! Deltas of values under dots.

#![no_main]

use polity_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = hostile::delta::<hostile::Values>(data, true);
});
