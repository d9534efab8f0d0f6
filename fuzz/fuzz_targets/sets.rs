//! Sets of concurrent values, as serde and postcard write them.

#![no_main]

use polity_fuzz::outside;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = outside::dvv_set(data);
});
