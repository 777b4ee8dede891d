//! Any body of a request is a job, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| gptkit_serve::fuzzing::read_any_body(bytes));
