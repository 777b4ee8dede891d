//! Cases for `gptkit bench` to time: equal streams, and short prompts beside long ones, of the engine without HTTP. Prompts are
//! made up; only the sizes matter.

use crate::engine::job::{GenerationEvent, GenerationJob};
use crate::engine::queue::QueueLimits;
use crate::engine::{EngineLimits, LocalEngine};
use crate::models::{Served, ServedModel};
use anyhow::{Context, Result, bail};
use gptkit_data::form::DialogueForm;
use gptkit_data::progress::{Progress, Unit};
use gptkit_data::tokenizer::Tokenizer;
use gptkit_feedback::records::ModelIdentity;
use gptkit_model::Gpt;
use gptkit_model::continuation::{GenerationOptions, LateEnds};
use gptkit_model::sampler::Sampling;
use gptkit_train::bench::{CaseTime, median};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Cases with so many equal streams.
const STREAMS: [(&str, usize); 3] = [("serve_1", 1), ("serve_4", 4), ("serve_16", 16)];
/// The case with short prompts beside long ones.
const FIRST_TOKEN: &str = "serve_first_token";
/// Tokens of a short prompt.
const PROMPT: usize = 32;
/// Tokens of an answer.
const ANSWER: usize = 64;
/// Long prompts that arrive together, and the tokens of each.
const LONG: (usize, usize) = (8, 1000);
/// Tokens of the answer to a long prompt.
const LONG_ANSWER: usize = 8;
/// Runs of a case before those that are measured, and those.
const WARM_UP: usize = 3;
const RUNS: usize = 3;
/// Short prompts that come, one after another, beside the long ones.
const SHORT: usize = 9;

/// Times those of the cases whose name `is_wanted` accepts: 1, 4 and 16 prompts of 32 tokens that are continued with 64, from the
/// request to the last token; and the time from a request of 32 tokens to its first token, beside 8 prompts of 1,000. Sizes
/// are smaller where the context is.
///
/// # Errors
/// When the model fails.
pub fn serve(gpt: Gpt, is_wanted: impl Fn(&str) -> bool, progress: &dyn Progress) -> Result<Vec<CaseTime>> {
    let mut prompts = ServedPrompts::new(gpt)?;
    let mut measured = Vec::new();
    for (case, streams) in STREAMS.into_iter().filter(|(case, _)| is_wanted(case)) {
        let task = progress.task(case, Some(RUNS as u64), Unit::Items);
        let engine = prompts.engine(&vec![prompts.short + prompts.answer; streams])?;
        let mut seconds = Vec::new();
        for run in 0..WARM_UP + RUNS {
            let begun = Instant::now();
            prompts.answer(&engine, streams)?;
            if run >= WARM_UP {
                seconds.push(begun.elapsed().as_secs_f64());
                task.advance(1);
            }
        }
        let (seconds, tokens) = (median(seconds), streams * prompts.answer);
        measured.push(CaseTime { case, batch: streams, seq: prompts.short, seconds, tokens, flops: 0.0 });
    }
    if is_wanted(FIRST_TOKEN) {
        let task = progress.task(FIRST_TOKEN, Some(SHORT as u64), Unit::Items);
        let mut lengths = vec![prompts.long + LONG_ANSWER; LONG.0];
        lengths.push(prompts.short + 1);
        let engine = prompts.engine(&lengths)?;
        let (seconds, seq) = (prompts.first_token(&engine, || task.advance(1))?, prompts.short);
        measured.push(CaseTime { case: FIRST_TOKEN, batch: 1, seq, seconds, tokens: seq, flops: 0.0 });
    }
    Ok(measured)
}

/// A served model, and prompts for it that have nothing in common.
struct ServedPrompts {
    served: Arc<Served>,
    /// Tokens of a short prompt, of its answer, and of a long prompt.
    short: usize,
    answer: usize,
    long: usize,
    /// Prompts so far.
    n_prompts: usize,
}

impl ServedPrompts {
    fn new(gpt: Gpt) -> Result<Self> {
        let context = gpt.config().context;
        let short = PROMPT.min(context / 2);
        Ok(Self {
            served: Arc::new(Served { writers: vec![model(gpt)?], scorers: Vec::new(), aliases: Vec::new() }),
            short,
            answer: ANSWER.min(context - short),
            long: LONG.1.min(context.saturating_sub(LONG_ANSWER)),
            n_prompts: 0,
        })
    }

    /// An engine with memory for twice as many sequences of these lengths: once they have been written, it works in memory
    /// that it has had before, as a server does under load.
    fn engine(&self, lengths: &[usize]) -> Result<LocalEngine> {
        let model = &self.served.writers[0];
        let cache_bytes = 2 * lengths.iter().map(|&tokens| model.sequence_bytes(tokens)).sum::<usize>();
        let limits = EngineLimits { rows: 32, cache_bytes, step: Duration::from_millis(60) };
        let queue = QueueLimits { requests: 128, tokens: 200_000, wait: Duration::from_secs(600) };
        Ok(LocalEngine::start(&self.served, queue, limits)?)
    }

    /// Has `streams` short prompts answered.
    fn answer(&mut self, engine: &LocalEngine, streams: usize) -> Result<()> {
        let asked: Result<Vec<_>> = (0..streams).map(|_| self.ask(engine, self.short, self.answer)).collect();
        asked?.into_iter().try_for_each(|mut events| wait_for(&mut events, is_done))
    }

    /// Median seconds until the first token of a short prompt, beside long ones.
    fn first_token(&mut self, engine: &LocalEngine, done: impl Fn()) -> Result<f64> {
        let long: Result<Vec<_>> = (0..LONG.0).map(|_| self.ask(engine, self.long, LONG_ANSWER)).collect();
        let mut seconds = Vec::new();
        for _ in 0..SHORT {
            let begun = Instant::now();
            let mut events = self.ask(engine, self.short, 1)?;
            // The first token comes with the last one of the prompt.
            wait_for(&mut events, |event| matches!(event, GenerationEvent::PromptRead(_)))?;
            seconds.push(begun.elapsed().as_secs_f64());
            done();
        }
        long?.into_iter().try_for_each(|mut events| wait_for(&mut events, is_done))?;
        Ok(median(seconds))
    }

    /// Asks for `answer` tokens after a prompt of `length`.
    fn ask(
        &mut self,
        engine: &LocalEngine,
        length: usize,
        answer: usize,
    ) -> Result<UnboundedReceiver<GenerationEvent>> {
        let (first, vocab_size) = (self.n_prompts, self.served.writers[0].config().vocab_size);
        self.n_prompts += 1;
        let (events, receiver) = unbounded_channel();
        let job = GenerationJob {
            model: 0,
            client: "bench".into(),
            prompt: (0..length).map(|i| ((first + i * 7919) % vocab_size) as u32).collect(),
            options: GenerationOptions {
                n_samples: 1,
                max_new_tokens: answer,
                stop: Vec::new(),
                log_probs: None,
                sampling: Sampling::default(),
            },
            ends: Vec::new(),
            late_ends: LateEnds::default(),
            echo: None,
            events,
            asked: Instant::now(),
            counted: false.into(),
        };
        match engine.queue.push(job) {
            Ok(()) => Ok(receiver),
            Err(refusal) => bail!("the queue refused a request: {refusal:?}"),
        }
    }
}

fn is_done(event: &GenerationEvent) -> bool {
    matches!(event, GenerationEvent::Done { .. })
}

/// Receives events up to one that `is_last` accepts.
fn wait_for(events: &mut UnboundedReceiver<GenerationEvent>, is_last: impl Fn(&GenerationEvent) -> bool) -> Result<()> {
    loop {
        let event = events.blocking_recv().context("the engine stopped")?;
        if let GenerationEvent::Failed(failure) = event {
            bail!("the engine failed: {failure:?}");
        }
        if is_last(&event) {
            return Ok(());
        }
    }
}

/// `gpt` with a token for each of some characters.
fn model(gpt: Gpt) -> Result<ServedModel> {
    // One of the tokens is the end of text.
    let tokenizer = Tokenizer::of_characters(&(' '..=char::MAX).take(gpt.config().vocab_size - 1).collect())?;
    Ok(ServedModel {
        name: "bench".to_owned(),
        folder: "bench".into(),
        gpt,
        form: DialogueForm::of(&tokenizer)?,
        end_of_text: tokenizer.end_of_text().into_iter().collect(),
        tokenizer,
        identity: ModelIdentity::default(),
    })
}
