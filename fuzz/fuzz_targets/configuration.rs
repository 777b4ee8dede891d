//! Any text is a configuration, or its problems are listed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use gptkit_train::PretrainConfig;

fuzz_target!(|text: &str| {
    match gptkit_config::load::<PretrainConfig>("fuzz.toml", text, &[]) {
        Ok(config) => assert!(gptkit_config::resolved(&config).is_ok()),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
