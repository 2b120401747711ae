#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lbctl::fuzzing::hsdo_settings(data));
