//! Requests that wait: bounded in number and in prompt tokens, and fair between clients.

use crate::engine::job::{EngineFailure, GenerationEvent, GenerationJob, ScoringJob};
use crate::metrics::{CanceledWhere, Metrics};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Limits of the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Requests that may wait.
    pub requests: usize,
    /// Prompt tokens that may wait.
    pub tokens: usize,
    /// The longest that a request waits.
    pub wait: Duration,
}

/// Why a request was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full; there may be room after this time.
    Full(Duration),
    /// The server is stopping.
    Stopping,
}

/// The queue between the handlers of requests and the engine.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    metrics: Arc<Metrics>,
    state: Mutex<QueueState>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Waiting requests of each client.
    clients: BTreeMap<Arc<str>, ClientQueue>,
    scoring: VecDeque<ScoringJob>,
    requests: usize,
    tokens: usize,
    stopping: Option<Instant>,
    /// Tokens that the engine has begun with, for the rate at which the queue drains.
    drained: DrainRate,
}

#[derive(Debug, Default)]
struct ClientQueue {
    waiting: VecDeque<GenerationJob>,
    /// Tokens that the engine has begun with for this client, since it last had nothing to wait for; the client with fewest
    /// is next.
    served: usize,
}

/// Tokens of prompts and continuations a second, over about the last half minute.
#[derive(Debug, Default)]
struct DrainRate {
    begun: VecDeque<(Instant, usize)>,
}

impl DrainRate {
    const OVER: Duration = Duration::from_secs(30);

    fn add(&mut self, tokens: usize) {
        self.begun.push_back((Instant::now(), tokens));
        while self.begun.front().is_some_and(|(at, _)| at.elapsed() > Self::OVER) {
            self.begun.pop_front();
        }
    }

    /// Time until `tokens` have drained; a second where nothing is known.
    fn time_for(&self, tokens: usize) -> Duration {
        let Some((first, _)) = self.begun.front() else { return Duration::from_secs(1) };
        let seconds = first.elapsed().as_secs_f64().max(0.1);
        let rate = self.begun.iter().map(|(_, tokens)| *tokens).sum::<usize>() as f64 / seconds;
        Duration::from_secs_f64((tokens as f64 / rate.max(1e-3)).clamp(1.0, 600.0))
    }
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits, metrics: Arc<Metrics>) -> Self {
        Self { limits, metrics, state: Mutex::default(), news: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request, unless there is no room for it.
    pub(crate) fn push(&self, job: GenerationJob) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.stopping.is_some() {
            return Err(Refusal::Stopping);
        }
        let is_first = state.requests == 0; // one request always has room, however long its prompt is
        let full = state.requests >= self.limits.requests || state.tokens + job.prompt.len() > self.limits.tokens;
        if full && !is_first {
            return Err(Refusal::Full(state.drained.time_for(state.waiting_tokens())));
        }
        state.requests += 1;
        state.tokens += job.prompt.len();
        let least = state.clients.values().map(|client| client.served).min().unwrap_or(0);
        let client = state.clients.entry(Arc::clone(&job.client)).or_default();
        client.served = client.served.max(least);
        client.waiting.push_back(job);
        self.metrics.waiting.set(state.requests as i64);
        self.news.notify_all();
        Ok(())
    }

    /// Adds a request for rewards.
    pub(crate) fn push_scoring(&self, job: ScoringJob) -> Result<(), Refusal> {
        let mut state = self.state();
        if state.stopping.is_some() {
            return Err(Refusal::Stopping);
        }
        if state.scoring.len() >= self.limits.requests {
            return Err(Refusal::Full(Duration::from_secs(1)));
        }
        state.scoring.push_back(job);
        self.news.notify_all();
        Ok(())
    }

    /// The next request for rewards.
    pub(crate) fn pop_scoring(&self) -> Option<ScoringJob> {
        self.state().scoring.pop_front()
    }

    /// The next request for which `fits`: of the client that has been served least. When the one whose turn it is does not
    /// fit, nobody else goes before it.
    pub(crate) fn pop(&self, fits: impl Fn(&GenerationJob) -> bool) -> Option<GenerationJob> {
        let mut state = self.state();
        let next = state.clients.values_mut().filter(|client| !client.waiting.is_empty());
        let client = next.min_by_key(|client| client.served)?;
        client.waiting.front().filter(|job| fits(job))?;
        let job = client.waiting.pop_front()?;
        client.served += job.tokens();
        state.requests -= 1;
        state.tokens -= job.prompt.len();
        state.drained.add(job.tokens());
        if state.requests == 0 {
            state.clients.clear();
        }
        self.metrics.waiting.set(state.requests as i64);
        Some(job)
    }

    /// Drops requests that nobody waits for, and those that have waited too long.
    pub(crate) fn sweep(&self) {
        let wait = self.limits.wait;
        let mut state = self.state();
        let (mut requests, mut tokens) = (0, 0);
        for client in state.clients.values_mut() {
            client.waiting.retain(|job| {
                let is_late = job.asked.elapsed() > wait;
                if job.is_canceled() {
                    job.count_canceled(&self.metrics, CanceledWhere::Queue);
                } else if is_late {
                    let _ = job.events.send(GenerationEvent::Failed(EngineFailure::QueueTimeout));
                } else {
                    requests += 1;
                    tokens += job.prompt.len();
                    return true;
                }
                false
            });
        }
        (state.requests, state.tokens) = (requests, tokens);
        self.metrics.waiting.set(requests as i64);
    }

    /// From now on, no request is accepted; those that wait are refused. Those that run go on until `deadline`.
    pub(crate) fn stop(&self, deadline: Instant) {
        let mut state = self.state();
        state.stopping = Some(deadline);
        for job in state.clients.values_mut().flat_map(|client| client.waiting.drain(..)) {
            let _ = job.events.send(GenerationEvent::Failed(EngineFailure::Stopping));
        }
        state.scoring.clear();
        (state.requests, state.tokens) = (0, 0);
        self.metrics.waiting.set(0);
        self.news.notify_all();
    }

    /// When everything has to end, once the server is stopping.
    pub(crate) fn stopping(&self) -> Option<Instant> {
        self.state().stopping
    }

    /// Waits until there is a request, or for `most`.
    pub(crate) fn wait(&self, most: Duration) {
        let state = self.state();
        if state.requests == 0 && state.scoring.is_empty() && state.stopping.is_none() {
            drop(self.news.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl QueueState {
    fn waiting_tokens(&self) -> usize {
        self.clients.values().flat_map(|client| &client.waiting).map(GenerationJob::tokens).sum()
    }
}
