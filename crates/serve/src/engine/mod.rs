//! The thread that owns the models: continuous batching of all requests.
//!
//! - [`job`]       what it is asked to do
//! - [`queue`]     requests that wait, bounded and fair
//! - [`lane`]      one model and its work
//! - [`prefixes`]  keys and values of earlier conversations

pub(crate) mod job;
mod lane;
mod prefixes;
pub(crate) mod queue;

use crate::metrics::Metrics;
use crate::models::Served;
use job::{EngineFailure, ScoringJob};
use lane::Lane;
use queue::{Queue, QueueLimits};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Limits of the engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// Continuations that are written at the same time, of each model.
    pub rows: usize,
    /// Bytes of keys and values of all requests and earlier conversations.
    pub cache_bytes: usize,
    /// How long a step may take because of prompts that are being read.
    pub step: Duration,
}

/// How long the engine sleeps at most when there is nothing to do.
const NAP: Duration = Duration::from_millis(100);

/// Works on the requests of `queue` until it is stopped and nothing is left to do.
pub(crate) fn run(served: &Served, queue: &Queue, metrics: &Metrics, limits: EngineLimits) {
    let mut engine = Engine {
        lanes: served.writers.iter().map(|model| Lane::new(model, metrics)).collect(),
        served,
        queue,
        metrics,
        limits,
    };
    loop {
        if let Some(deadline) = queue.stopping() {
            if engine.is_idle() {
                return;
            }
            if Instant::now() > deadline {
                return engine.lanes.iter_mut().for_each(|lane| lane.fail_all(&EngineFailure::Stopping));
            }
        }
        queue.sweep();
        engine.admit();
        engine.score();
        if engine.is_idle() {
            queue.wait(NAP);
        } else {
            engine.step();
        }
    }
}

struct Engine<'m> {
    served: &'m Served,
    queue: &'m Queue,
    metrics: &'m Metrics,
    limits: EngineLimits,
    lanes: Vec<Lane<'m>>,
}

impl Engine<'_> {
    fn is_idle(&self) -> bool {
        self.lanes.iter().all(Lane::is_idle)
    }

    /// Bytes that a request may need.
    fn bytes_of(&self, job: &job::GenerationJob) -> usize {
        job.bytes(&self.served.writers[job.model])
    }

    /// Takes requests from the queue as long as rows and memory suffice. Memory is reserved for the longest answer, so that
    /// a request that runs never lacks it; earlier conversations make room.
    fn admit(&mut self) {
        loop {
            let reserved: usize = self.lanes.iter().map(Lane::reserved_bytes).sum();
            let fits = |job: &job::GenerationJob| {
                let lane = &self.lanes[job.model];
                let is_first = self.is_idle(); // what could never fit was refused by the handler
                let rows = lane.n_rows() + job.options.n_samples <= self.limits.rows;
                is_first || rows && reserved + self.bytes_of(job) <= self.limits.cache_bytes
            };
            let Some(job) = self.queue.pop(fits) else { break };
            let needed = reserved + self.bytes_of(&job);
            let model = job.model;
            self.lanes[model].admit(job);
            self.make_room(self.limits.cache_bytes.saturating_sub(needed));
        }
        let running = self.lanes.iter().map(Lane::n_rows).sum::<usize>();
        self.metrics.running.set(running as i64);
    }

    /// Forgets earlier conversations until they take at most `bytes`.
    fn make_room(&mut self, bytes: usize) {
        let held: usize = self.lanes.iter().map(Lane::held_bytes).sum();
        let mut over = held.saturating_sub(bytes);
        for lane in &mut self.lanes {
            let of_lane = lane.held_bytes();
            lane.shrink_to(of_lane.saturating_sub(over));
            over = over.saturating_sub(of_lane - lane.held_bytes());
        }
    }

    /// A step of each model that has work. When the engine itself fails, the requests of that model get an error, and the
    /// others go on.
    fn step(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| !lane.is_idle()) {
            // On one of the threads that share its loops: a loop begun elsewhere puts its thread to sleep and wakes it again.
            let step = catch_unwind(AssertUnwindSafe(|| rayon::scope(|_| lane.step(self.limits.step))));
            let failure = match step {
                Ok(Ok(())) => continue,
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => "the engine failed; please report this".to_owned(),
            };
            self.metrics.failures.inc();
            lane.fail_all(&EngineFailure::Internal(failure));
        }
        let reserved: usize = self.lanes.iter().map(Lane::reserved_bytes).sum();
        self.make_room(self.limits.cache_bytes.saturating_sub(reserved));
        let held: usize = self.lanes.iter().map(Lane::held_bytes).sum();
        self.metrics.cache_bytes.set((reserved + held) as i64);
        self.metrics.cache_usage.set((reserved + held) as f64 / self.limits.cache_bytes.max(1) as f64);
    }

    /// Computes the rewards of a request that waits for them.
    fn score(&self) {
        let Some(ScoringJob { model, prompt, completions, reply }) = self.queue.pop_scoring() else { return };
        if reply.is_closed() {
            return;
        }
        let scorer = &self.served.scorers[model].scorer;
        let scored = catch_unwind(AssertUnwindSafe(|| scorer.score(&prompt, &completions)));
        let rewards = match scored {
            Ok(Ok(rewards)) => Ok(rewards.map(|rewards| rewards.rewards)),
            Ok(Err(e)) => Err(EngineFailure::Internal(format!("{e:#}"))),
            Err(_) => Err(EngineFailure::Internal("the engine failed; please report this".to_owned())),
        };
        let _ = reply.send(rewards);
    }
}

/// Starts the engine's thread.
pub(crate) fn start(
    served: Arc<Served>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    limits: EngineLimits,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("engine".to_owned()).spawn(move || run(&served, &queue, &metrics, limits))
}

/// An engine without a server, until it is dropped.
pub(crate) struct LocalEngine {
    pub(crate) queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl LocalEngine {
    pub(crate) fn start(served: &Arc<Served>, queue: QueueLimits, limits: EngineLimits) -> std::io::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let queue = Arc::new(Queue::new(queue, Arc::clone(&metrics)));
        let thread = start(Arc::clone(served), Arc::clone(&queue), metrics, limits)?;
        Ok(Self { queue, thread: Some(thread) })
    }
}

impl Drop for LocalEngine {
    /// Waits until the requests that run have ended.
    fn drop(&mut self) {
        self.queue.stop(Instant::now() + Duration::from_secs(60));
        let _ = self.thread.take().map(JoinHandle::join); // a panic was reported where it happened
    }
}

#[cfg(test)]
mod tests;
