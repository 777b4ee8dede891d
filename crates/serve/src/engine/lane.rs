//! One model and the requests that it works on: prompts that are being read, a piece at a time, and continuations, a token
//! at a time.

use crate::engine::job::{EngineFailure, GenerationEvent, GenerationJob};
use crate::engine::prefixes::Prefixes;
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
/// Room for keys and values grows by half.
const ROOM: f64 = 1.5;

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

/// A prompt of which some tokens have been read.
#[derive(Debug)]
struct ReadingPrompt {
    job: Arc<GenerationJob>,
    cache: Cache,
    read: usize,
    begun: Instant,
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
            prefixes: Prefixes::new(model.token_bytes()),
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
        let prompts = self.reading.iter().map(|one| one.job.tokens()).sum::<usize>();
        let rows = self.rows.iter().map(|row| row.job.prompt.len() + row.job.options.max_new_tokens).sum::<usize>();
        self.bytes_of(prompts + rows)
    }

    /// Bytes that `tokens` may need.
    pub(crate) fn bytes_of(&self, tokens: usize) -> usize {
        (tokens as f64 * self.model.token_bytes() as f64 * ROOM) as usize
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
        // The log-probabilities of a prompt's own tokens need all of them to be read.
        let taken = match job.echo {
            None => self.prefixes.take(&job.prompt, || self.model.gpt.cache()),
            Some(_) => Ok((self.model.gpt.cache(), 0)),
        };
        match taken {
            Ok((cache, cached)) => {
                let waited = job.asked.elapsed();
                self.metrics.begun(waited, job.prompt.len(), cached);
                let _ = job.events.send(GenerationEvent::Begun { waited, cached });
                let job = Arc::new(job);
                self.reading.push(ReadingPrompt { job, cache, read: cached, begun: Instant::now() });
            }
            Err(e) => fail(&job, &format!("{e:#}")),
        }
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

    /// Reads at most `most` tokens of prompts, and begins the continuations of those that it has read to the end. Returns
    /// how many it has read.
    fn read(&mut self, most: usize) -> Result<usize> {
        let is_whole = |one: &ReadingPrompt| one.read == 0 && one.job.echo.is_none();
        let mut n_tokens = 0;
        let fits = |one: &&ReadingPrompt| {
            n_tokens += one.job.prompt.len();
            is_whole(one) && n_tokens <= most
        };
        // Short prompts are read together.
        let n = self.reading.iter().take_while(fits).count();
        if n > 1 {
            let together: Vec<ReadingPrompt> = self.reading.drain(..n).collect();
            let prompts = together.iter().map(|one| one.job.prompt.as_slice());
            let mut cache = self.model.gpt.cache();
            let input = Input::ragged(prompts, self.model.gpt.device())?;
            let logits: Vec<Vec<f32>> = self.model.gpt.next_logits(&input, &mut cache)?.to_vec2()?;
            let read = together.iter().map(|one| one.job.prompt.len()).sum();
            for (i, (one, logits)) in together.into_iter().zip(logits).enumerate() {
                self.begin(&one, &logits, (&cache, i as u32))?;
            }
            return Ok(read);
        }
        self.pieces += 1;
        let left = |&i: &usize| self.reading[i].job.prompt.len() - self.reading[i].read;
        let shortest = (0..self.reading.len()).min_by_key(left).unwrap_or(0);
        let next = if self.pieces.is_multiple_of(OLDEST_EVERY) { 0 } else { shortest };
        let one = &mut self.reading[next];
        let job = Arc::clone(&one.job);
        let most = if job.echo.is_some() { most.min(ECHO_TOKENS) } else { most };
        let piece = one.read..job.prompt.len().min(one.read + most);
        let input = Input::ragged([&job.prompt[piece.clone()]], self.model.gpt.device())?;
        let logits = match job.echo {
            None => self.model.gpt.next_logits(&input, &mut one.cache)?,
            Some(_) => self.model.gpt.all_logits(&input, &mut one.cache)?,
        };
        if let Some(top) = job.echo {
            let echo = |(row, at): (Result<Vec<f32>>, usize)| {
                Ok(token_log_prob(&row?, job.prompt[at + 1], top, &self.model.tokenizer))
            };
            let places = piece.clone().take_while(|at| at + 1 < job.prompt.len());
            let echoed: Result<Vec<_>> = rows_of(&logits).zip(places).map(echo).collect();
            let _ = job.events.send(GenerationEvent::Echo(echoed?));
        }
        one.read = piece.end;
        if piece.end == job.prompt.len() {
            let one = self.reading.remove(next);
            if let Some(last) = rows_of(&logits).last() {
                self.begin(&one, &last?, (&one.cache, 0))?;
            }
        }
        Ok(piece.len())
    }

    /// Begins the continuations of a prompt: `logits`, `[V]`, come after it, and its keys and values are sequence number
    /// `place.1` of the cache `place.0`.
    fn begin(&mut self, one: &ReadingPrompt, logits: &[f32], place: (&Cache, u32)) -> Result<()> {
        let job = &one.job;
        let _ = job.events.send(GenerationEvent::PromptRead(one.begun.elapsed()));
        self.metrics.prompt_read(job.asked.elapsed());
        let mut begun = Vec::new();
        for index in 0..job.options.n_samples {
            let continuation = Continuation::new(&self.model.tokenizer, &job.options, &job.prompt, (0, index));
            let (job, last) = (Arc::clone(job), Instant::now());
            let mut row = RunningRow { job, index, continuation, counted: 0, sent: 0, last, failure: None };
            if row.is_full(self.model.context()) {
                row.end(self.metrics);
                continue;
            }
            row.push(logits, self.model);
            row.send(self.metrics);
            if row.goes_on(self.model.context()) {
                begun.push(place.1);
                self.rows.push(row);
            } else {
                row.end(self.metrics);
            }
        }
        self.cache.append(place.0, &begun)?;
        if begun.is_empty() {
            let mut alone = self.model.gpt.cache();
            alone.append(place.0, &[place.1])?;
            self.prefixes.keep(job.prompt.clone(), alone);
        }
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
        let lens = self.cache.lens().to_vec();
        let (mut left, mut kept) = (Vec::new(), Vec::new());
        for (i, mut row) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            if !leaves(&row) {
                left.push(i as u32);
                kept.push(row);
                continue;
            }
            row.end(self.metrics);
            if row.failure.is_none() && row.index == 0 {
                let mut alone = self.model.gpt.cache();
                alone.append(&self.cache, &[i as u32])?;
                self.prefixes.keep(row.continuation.tokens()[..lens[i]].to_vec(), alone);
            }
        }
        self.cache.keep(&left)?;
        if left.is_empty() {
            self.cache = self.model.gpt.cache();
        }
        self.rows = kept;
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

/// The rows of `logits`, `[N, V]`.
fn rows_of(logits: &Tensor) -> impl DoubleEndedIterator<Item = Result<Vec<f32>>> + '_ {
    (0..logits.dim(0).unwrap_or(0)).map(|row| Ok(logits.get(row)?.to_vec1()?))
}
