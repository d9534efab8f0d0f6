//! A live replica is given requests.

#![no_main]

use polity_fuzz::outside;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    outside::requests_to_live(data);
});
