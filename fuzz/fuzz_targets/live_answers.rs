//! A live replica is given answers.

#![no_main]

use polity_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    hostile::answers_to_live(data);
});
