//! Each operation at GPT-2's sizes: 4 windows of 1,024 tokens, 768 wide, 12 heads, 50,257 tokens in the vocabulary.
//!
//! `cargo bench -p gptkit-ops -- attention` measures the operations with that name, and says how they compare with the last
//! run. A group has the operation in each precision with the instructions that the processor has, and its plain version in
//! candle's operations, where it has one. `GPTKIT_CPU=portable cargo bench -p gptkit-ops` measures the code without vector
//! instructions; its results have names of their own. Throughput is in tokens.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gptkit_ops::Precision;
use gptkit_ops::bench::{BenchCase, BenchShape, cases};
use gptkit_ops::bench_versions::{more_cases, plain_cases};
use gptkit_ops::cpu::Cpu;
use std::time::Duration;

const GPT2: BenchShape = BenchShape { batch: 4, len: 1024, width: 768, n_head: 12, vocab_size: 50_257 };
/// For what goes token by token: a plain LSTM takes seconds for more.
const SMALL: BenchShape = BenchShape { batch: 12, len: 64, width: 256, n_head: 4, vocab_size: 4096 };
/// Operations that are measured at [`SMALL`].
const IN_STEPS: [&str; 1] = ["lstm"];

/// The versions of an operation, by name.
type Versions = Vec<(String, BenchCase)>;

fn versions(shape: BenchShape) -> candle_core::Result<Versions> {
    let level = Cpu::get().level.name();
    let mut versions = Vec::new();
    for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
        let chosen = cases(shape, precision, |_| true)?.into_iter().chain(more_cases(shape, precision)?);
        versions.extend(chosen.map(|case| (format!("{name}, {level}"), case)));
    }
    versions.extend(plain_cases(shape)?.into_iter().map(|case| ("plain".to_owned(), case)));
    Ok(versions)
}

fn measure(criterion: &mut Criterion, shape: BenchShape, is_wanted: impl Fn(&str) -> bool) {
    let mut versions = versions(shape).expect("operations of this size fit into memory");
    versions.retain(|(_, case)| is_wanted(case.name));
    let mut names: Vec<&str> = Vec::new();
    versions.iter().for_each(|(_, case)| {
        if !names.contains(&case.name) {
            names.push(case.name);
        }
    });
    let BenchShape { batch, len, width, .. } = shape;
    for name in names {
        let mut group = criterion.benchmark_group(format!("{name}/{batch}x{len}x{width}"));
        group.throughput(Throughput::Elements((batch * len) as u64));
        for (version, case) in versions.iter_mut().filter(|(_, case)| case.name == name) {
            group.bench_function(version.as_str(), |bencher| {
                bencher.iter(|| (case.run)().expect("an operation that was set up runs"));
            });
        }
        group.finish();
    }
}

fn operations(criterion: &mut Criterion) {
    measure(criterion, GPT2, |name| !IN_STEPS.contains(&name));
    measure(criterion, SMALL, |name| IN_STEPS.contains(&name));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = operations
}
criterion_main!(benches);
