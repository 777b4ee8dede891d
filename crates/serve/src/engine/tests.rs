//! The contract: the same request gets the same bits, whatever runs beside it.

use super::*;
use crate::engine::job::{GenerationEvent, GenerationJob};
use crate::testing::model;
use gptkit_model::continuation::{Finish, GenerationOptions, LateEnds};
use gptkit_model::sampler::Sampling;
use gptkit_ops::{Precision, Quantized};
use gptkit_rng::Dice;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A continuation that was received.
#[derive(Debug, Clone, Default, PartialEq)]
struct Received {
    text: String,
    /// Each token with the bits of its log-probability.
    tokens: Vec<(u32, u32)>,
    finish: Option<Finish>,
}

fn receive(mut events: UnboundedReceiver<GenerationEvent>, n: usize) -> Vec<Received> {
    let mut received = vec![Received::default(); n];
    let mut left = n;
    while left > 0 {
        match events.blocking_recv().expect("the engine is gone") {
            GenerationEvent::Text { index, text, log_probs } => {
                received[index].text += &text;
                received[index].tokens.extend(log_probs.iter().map(|one| (one.id, one.log_prob.to_bits())));
            }
            GenerationEvent::Done { index, finish, .. } => {
                received[index].finish = Some(finish);
                left -= 1;
            }
            GenerationEvent::Failed(failure) => panic!("{failure:?}"),
            GenerationEvent::Begun { .. } | GenerationEvent::PromptRead(_) | GenerationEvent::Echo(_) => {}
        }
    }
    received
}

fn job(prompt: &[u32], seed: u64, n_samples: usize, new: usize) -> (GenerationJob, UnboundedReceiver<GenerationEvent>) {
    let sampling = Sampling { seed, temperature: 0.9, ..Sampling::default() };
    let (events, receiver) = unbounded_channel();
    let options = GenerationOptions { n_samples, max_new_tokens: new, stop: Vec::new(), log_probs: Some(0), sampling };
    let job = GenerationJob {
        model: 0,
        client: "test".into(),
        prompt: prompt.to_vec(),
        options,
        ends: vec![3],
        late_ends: LateEnds::default(),
        echo: None,
        events,
        asked: Instant::now(),
        counted: false.into(),
    };
    (job, receiver)
}

fn engine(served: &Arc<Served>, step: Duration, rows: usize) -> LocalEngine {
    let limits = QueueLimits { requests: 1000, tokens: 1_000_000, wait: Duration::from_secs(600) };
    LocalEngine::start(served, limits, EngineLimits { rows, cache_bytes: 1 << 26, step }).unwrap()
}

/// In 20 mixes of 0 to 32 other requests, with prompts read whole and in pieces, cached and not.
fn same_bits_in_any_mix(precision: Precision, quantized: Option<Quantized>) {
    let writers = vec![model("m", false, precision, quantized)];
    let served = Arc::new(Served { writers, scorers: Vec::new(), aliases: Vec::new() });
    let mut dice = Dice::for_resampling(7);
    let prompt: Vec<u32> = (0..45).map(|_| 4 + dice.below(90) as u32).collect();
    let alone = {
        let engine = engine(&served, Duration::from_secs(1), 64);
        let (job, events) = job(&prompt, 11, 2, 40);
        engine.queue.push(job).unwrap();
        receive(events, 2)
    };
    assert!(alone[0] != alone[1] && alone.iter().all(|one| !one.tokens.is_empty()), "{alone:?}");
    for mix in 0..20 {
        // Steps that have no time read 16 tokens of a prompt at a time.
        let step = if mix % 2 == 0 { Duration::ZERO } else { Duration::from_secs(1) };
        let engine = engine(&served, step, 2 + dice.below(40));
        if mix % 3 == 0 {
            // A conversation that begins like the prompt was there before.
            let (job, events) = job(&prompt[..9 + dice.below(30)], 5, 1, 3);
            engine.queue.push(job).unwrap();
            receive(events, 1);
        }
        let mut others = Vec::new();
        let (n, place) = (dice.below(33), dice.below(33));
        let mut asked = None;
        for i in 0..=n {
            if i == place.min(n) {
                let (job, events) = job(&prompt, 11, 2, 40);
                engine.queue.push(job).unwrap();
                asked = Some(events);
            }
            let length = 1 + dice.below(60);
            let other: Vec<u32> = match dice.chance(30) {
                true => prompt[..length.min(prompt.len())].to_vec(),
                false => (0..length).map(|_| 4 + dice.below(90) as u32).collect(),
            };
            let (job, events) = job(&other, i as u64, 1, 1 + dice.below(30));
            engine.queue.push(job).unwrap();
            others.push(events);
        }
        assert_eq!(receive(asked.unwrap(), 2), alone, "mix {mix}, {precision:?}, {quantized:?}");
        others.into_iter().for_each(|events| drop(receive(events, 1)));
    }
}

#[test]
fn a_request_gets_the_same_bits_in_any_mix_in_f32() {
    same_bits_in_any_mix(Precision::F32, None);
}

#[test]
fn a_request_gets_the_same_bits_in_any_mix_in_bf16() {
    same_bits_in_any_mix(Precision::Bf16, None);
}

#[test]
fn a_request_gets_the_same_bits_in_any_mix_in_q8_0() {
    same_bits_in_any_mix(Precision::F32, Some(Quantized::Q8_0));
}

#[test]
fn a_request_gets_the_same_bits_in_any_mix_in_q4_k() {
    same_bits_in_any_mix(Precision::F32, Some(Quantized::Q4K));
}

/// Long prompts of one client do not hold up another client's.
#[test]
fn clients_take_turns() {
    let writers = vec![model("m", false, Precision::F32, None)];
    let served = Arc::new(Served { writers, scorers: Vec::new(), aliases: Vec::new() });
    let metrics = Arc::new(Metrics::new());
    let limits = QueueLimits { requests: 100, tokens: 10_000, wait: Duration::from_secs(60) };
    let queue = Queue::new(limits, metrics);
    let mut receivers = Vec::new();
    let mut push = |client: &str, prompt: usize| {
        let (mut job, events) = job(&vec![5; prompt], 1, 1, 4);
        job.client = client.into();
        queue.push(job).unwrap();
        receivers.push(events);
    };
    (0..4).for_each(|_| push("a", 40));
    (0..3).for_each(|_| push("b", 4));
    let order: String = std::iter::from_fn(|| queue.pop(|_| true)).map(|job| job.client.to_string()).collect();
    assert_eq!(order, "abbbaaa", "one of 44 tokens, then three of 8");
    drop(served);
}

/// Of equal prompts that come together, one is read; the others take what it has read, from the prompt or the row that it
/// became.
#[test]
fn a_beginning_is_read_once_for_prompts_that_come_together() {
    let writers = vec![model("m", false, Precision::F32, None)];
    let served = Arc::new(Served { writers, scorers: Vec::new(), aliases: Vec::new() });
    let metrics = Metrics::new();
    let mut lane = Lane::new(&served.writers[0], &metrics);
    let prompt: Vec<u32> = (0..40).map(|i| 4 + i * 7 % 90).collect();
    let ask = |lane: &mut Lane, prompt: &[u32]| {
        let (job, events) = job(prompt, 1, 1, 20);
        lane.admit(job);
        events
    };
    let cached = |mut events: UnboundedReceiver<GenerationEvent>| match events.try_recv() {
        Ok(GenerationEvent::Begun { cached, .. }) => Some(cached),
        _ => None,
    };
    let second = |mut prompt: Vec<u32>| {
        prompt[35] = 3;
        prompt
    };
    let together = [ask(&mut lane, &prompt), ask(&mut lane, &second(prompt.clone())), ask(&mut lane, &prompt)];
    let other = ask(&mut lane, &[9; 39]);
    (0..4).for_each(|_| lane.step(Duration::from_secs(1)).unwrap());
    let late = ask(&mut lane, &prompt[..36]);
    lane.step(Duration::from_secs(1)).unwrap();
    assert_eq!(together.map(cached), [Some(0), Some(35), Some(39)]);
    assert_eq!((cached(other), cached(late)), (Some(0), Some(35)));
}
