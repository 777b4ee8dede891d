//! One model and the requests that it works on: prompts that are being read, a piece at a time, and continuations, a token
//! at a time.

use crate::engine::job::{EngineFailure, GenerationEvent, GenerationJob};
use crate::engine::prefixes::{Prefixes, usable};
use crate::metrics::{CanceledWhere, Metrics};
use crate::models::ServedModel;
use anyhow::Result;
use candle_core::Tensor;
use gptkit_model::Input;
use gptkit_model::continuation::{Continuation, DecodingOptions, Finish, token_log_prob};
use gptkit_ops::{Cache, with_score_rows};
use rayon::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens of a prompt whose log-probabilities are computed together: their logits take memory.
const ECHO_TOKENS: usize = 64;
/// The fewest tokens of a prompt that are read in a step.
const SMALLEST_PIECE: usize = 16;
/// Of so many pieces, one is of the prompt that came first; the others are of the prompt with the fewest tokens left, so that
/// short prompts do not wait for long ones.
const OLDEST_EVERY: usize = 4;
/// A pass over the model's weights takes about as long as reading so many tokens more.
const WORTH_A_PASS: usize = 24;

/// A model with its work.
pub(crate) struct Lane<'m> {
    model: &'m ServedModel,
    metrics: &'m Metrics,
    /// Prompts that are being read, in the order in which they came.
    reading: Vec<ReadingPrompt>,
    rows: Vec<RunningRow<'m>>,
    /// Of the rows, without the newest token of each.
    cache: Cache,
    prefixes: Prefixes,
    /// Tokens of prompts that are read in a second, by the last steps.
    rate: f64,
    /// Pieces of prompts that were read.
    pieces: usize,
}

/// A prompt that has not been read to its end.
#[derive(Debug)]
struct ReadingPrompt {
    job: Arc<GenerationJob>,
    /// The keys and values of the tokens that have been read.
    cache: Cache,
    /// When reading began, if it has.
    begun: Option<Instant>,
}

impl ReadingPrompt {
    /// Tokens that have been read.
    fn read(&self) -> usize {
        self.cache.lens()[0]
    }

    /// Tokens that have not.
    fn left(&self) -> usize {
        self.job.prompt.len() - self.read()
    }
}

/// Where the keys and values of a beginning of a prompt are.
enum Beginning {
    /// Among those of earlier conversations.
    Held,
    /// In the row of this number.
    Row(usize),
    /// In the prompt of this number, of those that are being read.
    Reading(usize),
}

/// A continuation while it is written.
struct RunningRow<'m> {
    job: Arc<GenerationJob>,
    index: usize,
    continuation: Continuation<'m>,
    /// Tokens that were counted.
    counted: usize,
    /// Log-probabilities that were sent.
    sent: usize,
    /// When the last token came.
    last: Instant,
    failure: Option<String>,
}

impl<'m> Lane<'m> {
    pub(crate) fn new(model: &'m ServedModel, metrics: &'m Metrics) -> Self {
        Self {
            model,
            metrics,
            reading: Vec::new(),
            rows: Vec::new(),
            cache: model.gpt.cache(),
            prefixes: Prefixes::default(),
            rate: 200.0,
            pieces: 0,
        }
    }

    /// Whether it has anything to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.reading.is_empty() && self.rows.is_empty()
    }

    /// Continuations that are being written, or will be of the prompts that are being read.
    pub(crate) fn n_rows(&self) -> usize {
        self.rows.len() + self.reading.iter().map(|one| one.job.options.n_samples).sum::<usize>()
    }

    /// Bytes that its requests may need at most.
    pub(crate) fn reserved_bytes(&self) -> usize {
        let of_row = |row: &RunningRow| self.model.sequence_bytes(row.job.longest());
        let prompts: usize = self.reading.iter().map(|one| one.job.bytes(self.model)).sum();
        prompts + self.rows.iter().map(of_row).sum::<usize>()
    }

    /// Bytes of earlier conversations.
    pub(crate) fn held_bytes(&self) -> usize {
        self.prefixes.bytes()
    }

    /// Forgets earlier conversations beyond `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.prefixes.shrink_to(bytes);
    }

    /// Takes up a request.
    pub(crate) fn admit(&mut self, job: GenerationJob) {
        let cache = self.model.gpt.cache().with_empty(1);
        self.reading.push(ReadingPrompt { job: Arc::new(job), cache, begun: None });
    }

    /// Ends every request with `failure`, and forgets everything: after a failure of the engine, nothing that it held can be
    /// trusted.
    pub(crate) fn fail_all(&mut self, failure: &EngineFailure) {
        let jobs = self.reading.iter().map(|one| &one.job).chain(self.rows.iter().map(|row| &row.job));
        for job in jobs {
            let _ = job.events.send(GenerationEvent::Failed(failure.clone()));
        }
        *self = Self { rate: self.rate, ..Self::new(self.model, self.metrics) };
    }

    /// One token for each continuation, and pieces of prompts for about `budget`.
    ///
    /// # Errors
    /// When the model fails; the lane cannot be used then.
    pub(crate) fn step(&mut self, budget: Duration) -> Result<()> {
        self.drop_canceled()?;
        let begun = Instant::now();
        if !self.rows.is_empty() {
            self.metrics.step_rows.observe(self.rows.len() as f64);
            self.write()?;
        }
        if self.reading.is_empty() {
            return Ok(());
        }
        let left = if self.rows.is_empty() { budget } else { budget.saturating_sub(begun.elapsed()) };
        let mut tokens = ((self.rate * left.as_secs_f64()) as usize).max(SMALLEST_PIECE);
        let (before, begun) = (tokens, Instant::now());
        while tokens > 0 && !self.reading.is_empty() {
            tokens -= self.read(tokens)?;
        }
        let rate = (before - tokens) as f64 / begun.elapsed().as_secs_f64().max(1e-6);
        self.rate += (rate - self.rate) / 4.0;
        Ok(())
    }

    fn drop_canceled(&mut self) -> Result<()> {
        let metrics = self.metrics;
        self.reading.retain(|one| {
            let is_canceled = one.job.is_canceled();
            if is_canceled {
                one.job.count_canceled(metrics, CanceledWhere::Prompt);
            }
            !is_canceled
        });
        if self.rows.iter().any(|row| row.job.is_canceled()) {
            self.retire(|row| row.job.is_canceled())?;
        }
        Ok(())
    }

    /// Begins to read prompts, each from the longest beginning that has been read for somebody. A prompt that begins like one
    /// that is read before it waits until that has been read so far.
    fn begin_reading(&mut self) -> Result<()> {
        for i in 0..self.reading.len() {
            if self.reading[i].begun.is_some() {
                continue;
            }
            let job = Arc::clone(&self.reading[i].job);
            // The log-probabilities of a prompt's own tokens need all of them to be read.
            if job.echo.is_none() {
                let (held, place) = self.longest_beginning(i);
                let others = self.reading.iter().enumerate();
                let mut before = others.filter(|(n, other)| (other.left(), *n) < (job.prompt.len(), i));
                if before.any(|(_, other)| usable(&other.job.prompt, &job.prompt) >= held + WORTH_A_PASS) {
                    continue;
                }
                let cache = match place {
                    _ if held == 0 => None,
                    Beginning::Held => self.prefixes.take(&job.prompt)?,
                    Beginning::Row(row) => Some(self.cache.copies(&[row as u32])?),
                    Beginning::Reading(other) => Some(self.reading[other].cache.copies(&[0])?),
                };
                if let Some(mut cache) = cache {
                    cache.truncate(held);
                    self.reading[i].cache = cache;
                }
            }
            let (waited, cached) = (job.asked.elapsed(), self.reading[i].read());
            self.metrics.begun(waited, job.prompt.len(), cached);
            let _ = job.events.send(GenerationEvent::Begun { waited, cached });
            self.reading[i].begun = Some(Instant::now());
        }
        Ok(())
    }

    /// The longest beginning of prompt number `i` that has been read: its tokens, and where it is.
    fn longest_beginning(&self, i: usize) -> (usize, Beginning) {
        let prompt = &self.reading[i].job.prompt;
        let of_rows = self.rows.iter().zip(self.cache.lens()).enumerate();
        let rows =
            of_rows.map(|(n, (row, &len))| (usable(&row.continuation.tokens()[..len], prompt), Beginning::Row(n)));
        let reading = self.reading.iter().enumerate();
        let reading = reading.map(|(n, one)| (usable(&one.job.prompt[..one.read()], prompt), Beginning::Reading(n)));
        let held = std::iter::once((self.prefixes.usable(prompt), Beginning::Held));
        rows.chain(reading).chain(held).max_by_key(|(usable, _)| *usable).unwrap_or((0, Beginning::Held))
    }

    /// The prompts of which a piece is read next, and the tokens of each piece, at most `most` together. A prompt whose own
    /// log-probabilities are wanted is read alone.
    fn pieces(&mut self, most: usize) -> Vec<(usize, usize)> {
        self.pieces += 1;
        let mut order: Vec<usize> = (0..self.reading.len()).filter(|&i| self.reading[i].begun.is_some()).collect();
        let oldest = usize::from(self.pieces.is_multiple_of(OLDEST_EVERY)).min(order.len());
        order[oldest..].sort_by_key(|&i| self.reading[i].left()); // stable: equals stay in the order in which they came
        let mut pieces = Vec::new();
        let mut room = most;
        for i in order {
            let is_alone = self.reading[i].job.echo.is_some();
            let tokens = self.reading[i].left().min(if is_alone { room.min(ECHO_TOKENS) } else { room });
            if tokens > 0 && (pieces.is_empty() || !is_alone) {
                pieces.push((i, tokens));
                room -= tokens;
            }
            if is_alone && pieces.len() == 1 {
                break;
            }
        }
        pieces
    }

    /// Reads at most `most` tokens of prompts, and begins the continuations of those that it has read to the end. Returns
    /// how many it has read.
    fn read(&mut self, most: usize) -> Result<usize> {
        self.begin_reading()?;
        let pieces = self.pieces(most);
        let (gpt, mut cache, mut input) = (&self.model.gpt, self.model.gpt.cache(), Vec::new());
        let jobs: Vec<Arc<GenerationJob>> = pieces.iter().map(|&(i, _)| Arc::clone(&self.reading[i].job)).collect();
        for (&(i, tokens), job) in pieces.iter().zip(&jobs) {
            let one = &mut self.reading[i];
            input.push(&job.prompt[one.read()..][..tokens]);
            cache.append(std::mem::replace(&mut one.cache, gpt.cache()))?;
        }
        let n_tokens = input.iter().map(|piece| piece.len()).sum();
        let input = Input::ragged(input, gpt.device())?;
        let echo = jobs.first().and_then(|job| job.echo);
        let logits = match echo {
            None => gpt.next_logits(&input, &mut cache)?,
            Some(_) => gpt.all_logits(&input, &mut cache)?,
        };
        for &(i, _) in &pieces {
            self.reading[i].cache = cache.take_first()?;
        }
        let mut logits = logits.to_vec2()?;
        if let Some(top) = echo {
            let (job, end) = (&jobs[0], self.reading[pieces[0].0].read());
            let places = (end - n_tokens..end).take_while(|at| at + 1 < job.prompt.len()).zip(&logits);
            let echoed =
                places.map(|(at, logits)| token_log_prob(logits, job.prompt[at + 1], top, &self.model.tokenizer));
            let _ = job.events.send(GenerationEvent::Echo(echoed.collect()));
            logits.drain(..n_tokens - 1);
        }
        let mut read: Vec<(usize, Vec<f32>)> = pieces.iter().map(|piece| piece.0).zip(logits).collect();
        read.retain(|(i, _)| self.reading[*i].left() == 0);
        read.sort_by_key(|(i, _)| *i);
        // From the last on, so that numbers stay those of the others.
        let ends: Vec<_> = read.into_iter().rev().map(|(i, logits)| (self.reading.remove(i), logits)).collect();
        ends.into_iter().rev().try_for_each(|(one, logits)| self.begin(one, &logits))?;
        Ok(n_tokens)
    }

    /// Begins the continuations of a prompt that has been read: `logits`, `[V]`, come after it.
    fn begin(&mut self, one: ReadingPrompt, logits: &[f32]) -> Result<()> {
        let ReadingPrompt { job, mut cache, begun } = one;
        let _ = job.events.send(GenerationEvent::PromptRead(begun.unwrap_or(job.asked).elapsed()));
        self.metrics.prompt_read(job.asked.elapsed());
        let before = self.rows.len();
        for index in 0..job.options.n_samples {
            let continuation = Continuation::new(&self.model.tokenizer, &job.options, &job.prompt, (0, index));
            let (job, last) = (Arc::clone(&job), Instant::now());
            let mut row = RunningRow { job, index, continuation, counted: 0, sent: 0, last, failure: None };
            if row.is_full(self.model.context()) {
                row.end(self.metrics);
                continue;
            }
            row.push(logits, self.model);
            row.send(self.metrics);
            if row.goes_on(self.model.context()) {
                self.rows.push(row);
            } else {
                row.end(self.metrics);
            }
        }
        let begun = self.rows.len() - before;
        if begun == 0 {
            self.prefixes.keep(job.prompt.clone(), cache, self.model.sequence_bytes(job.prompt.len()));
            return Ok(());
        }
        cache.keep(&vec![0; begun])?;
        self.cache.append(cache)?;
        Ok(())
    }

    /// One token for each continuation.
    fn write(&mut self) -> Result<()> {
        let newest: Vec<u32> = self.rows.iter().filter_map(|row| row.continuation.tokens().last().copied()).collect();
        let newest = Tensor::from_vec(newest, (self.rows.len(), 1), self.model.gpt.device())?;
        let logits = self.model.gpt.next_logits(&Input::windows(&newest)?, &mut self.cache)?;
        let model = self.model;
        with_score_rows(&logits, |logits| {
            self.rows.par_iter_mut().zip(logits).for_each(|(row, logits)| row.push(logits, model));
        })?;
        self.rows.iter_mut().for_each(|row| row.send(self.metrics));
        let context = model.context();
        if self.rows.iter().any(|row| !row.goes_on(context)) {
            self.retire(|row| !row.goes_on(context))?;
        }
        Ok(())
    }

    /// Ends the rows for which `leaves` holds, and keeps what the model has read for them.
    fn retire(&mut self, leaves: impl Fn(&RunningRow) -> bool) -> Result<()> {
        let rows = (0..).zip(std::mem::take(&mut self.rows));
        let (leaving, staying): (Vec<_>, Vec<_>) = rows.partition(|(_, row)| leaves(row));
        let order: Vec<u32> = staying.iter().chain(&leaving).map(|(number, _)| *number).collect();
        self.cache.keep(&order)?;
        let mut caches = self.cache.split_off(staying.len())?;
        self.rows = staying.into_iter().map(|(_, row)| row).collect();
        for (_, mut row) in leaving {
            let cache = caches.take_first()?;
            row.end(self.metrics);
            if row.failure.is_none() && row.index == 0 {
                let tokens = row.continuation.tokens()[..cache.lens()[0]].to_vec();
                let bytes = self.model.sequence_bytes(tokens.len());
                self.prefixes.keep(tokens, cache, bytes);
            }
        }
        Ok(())
    }
}

impl RunningRow<'_> {
    /// Adds the token that `logits` give.
    fn push(&mut self, logits: &[f32], model: &ServedModel) {
        #[cfg(test)]
        crate::testing::panic_if_wanted(&self.job.options.stop, self.continuation.n_new());
        if let Err(e) = self.continuation.push_token(logits, &decoding(model, &self.job)) {
            self.failure = Some(format!("{e:#}"));
        }
    }

    /// Sends what is new.
    fn send(&mut self, metrics: &Metrics) {
        if self.continuation.n_new() > self.counted {
            metrics.token((self.counted > 0).then(|| self.last.elapsed()));
            (self.counted, self.last) = (self.continuation.n_new(), Instant::now());
        }
        let all = self.continuation.log_probs();
        let log_probs = all[self.sent..].to_vec();
        self.sent = all.len();
        let text = self.continuation.fresh_text().to_owned();
        if !text.is_empty() || !log_probs.is_empty() {
            let _ = self.job.events.send(GenerationEvent::Text { index: self.index, text, log_probs });
        }
    }

    fn is_full(&self, context: usize) -> bool {
        self.continuation.n_new() >= self.job.options.max_new_tokens || self.continuation.tokens().len() >= context
    }

    fn goes_on(&self, context: usize) -> bool {
        self.failure.is_none() && self.continuation.finish().is_none() && !self.is_full(context)
    }

    /// Sends the rest, and that it has ended.
    fn end(&mut self, metrics: &Metrics) {
        if self.job.is_canceled() {
            return self.job.count_canceled(metrics, CanceledWhere::Writing);
        }
        let rest = self.continuation.end();
        if let Some(failure) = self.failure.clone().or(rest.as_ref().err().map(|e| format!("{e:#}"))) {
            self.failure = Some(failure.clone());
            return fail(&self.job, &failure);
        }
        let (index, text) = (self.index, rest.unwrap_or_default());
        if !text.is_empty() {
            let _ = self.job.events.send(GenerationEvent::Text { index, text, log_probs: Vec::new() });
        }
        let finish = self.continuation.finish().unwrap_or(Finish::Length);
        metrics.done(finish);
        let tokens = self.continuation.tokens()[self.job.prompt.len()..].to_vec();
        let _ = self.job.events.send(GenerationEvent::Done { index, finish, tokens });
    }
}

fn fail(job: &GenerationJob, why: &str) {
    let _ = job.events.send(GenerationEvent::Failed(EngineFailure::Internal(why.to_owned())));
}

fn decoding<'a>(model: &'a ServedModel, job: &'a GenerationJob) -> DecodingOptions<'a> {
    DecodingOptions {
        tokenizer: &model.tokenizer,
        end_of_text: &job.ends,
        late_ends: &job.late_ends,
        options: &job.options,
    }
}
