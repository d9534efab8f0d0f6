//! Answers of anti-entropy.

#![no_main]

use polity_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = hostile::answer(data);
});
