//! Answers of anti-entropy.

#![no_main]

use polity_fuzz::outside;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = outside::answer(data);
});
