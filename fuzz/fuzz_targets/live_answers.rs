//! A live replica is given answers.

#![no_main]

use polity_fuzz::outside;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    outside::answers_to_live(data);
});
