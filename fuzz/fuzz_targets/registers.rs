//! Deltas of values under keys.

#![no_main]

use polity_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = hostile::delta::<hostile::Registers>(data, false);
});
