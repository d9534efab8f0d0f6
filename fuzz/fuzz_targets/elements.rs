//! Deltas of dots under keys.

#![no_main]

use polity_fuzz::outside;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = outside::delta::<outside::Set>(data);
});
