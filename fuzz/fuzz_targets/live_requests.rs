//! A live replica is given requests.

#![no_main]

use polity_fuzz::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    hostile::requests_to_live(data);
});
