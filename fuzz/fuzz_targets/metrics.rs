//! Any `metrics.jsonl` is drawn or refused.
#![no_main]

use gptkit_train::curves::Curves;
use gptkit_train::metric_charts::MetricPlot;
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("metrics.jsonl"), bytes).unwrap();
    if let Ok(curves) = Curves::read(folder.path()) {
        MetricPlot::of_defaults(&[curves], false).svg();
    }
});
