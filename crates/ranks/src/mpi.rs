//! Ranks that MPI connects: processes that `mpirun` or `srun` starts, on one machine or on several.

use crate::{Ranks, Transport};
use anyhow::{Context, Result, ensure};
use mpi::environment::{Threading, Universe};
use mpi::request::scope;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Equivalence, Source};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a message; MPI counts them in 31 bits.
const LONGEST: usize = 1 << 28;
/// How long messages are waited for without a pause, before the core is left to others.
const SPIN: Duration = Duration::from_millis(2);
/// How long a pause is.
const PAUSE: Duration = Duration::from_micros(50);

/// A rank of MPI's.
struct MpiRank {
    rank: usize,
    size: usize,
    /// How long a partner is waited for.
    limit: Duration,
    /// Reports that a partner does not answer.
    report: fn(&str),
    /// MPI ends when it is dropped.
    _universe: Universe,
}

impl std::fmt::Debug for MpiRank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

/// The ranks that MPI started this process with. A rank that does not answer within `limit` is passed to `report`, and MPI then
/// ends all ranks: a message cannot be taken back.
///
/// # Errors
/// When MPI cannot be started, or the number of ranks is no power of two.
pub fn mpi_ranks(limit: Duration, report: fn(&str)) -> Result<Ranks> {
    let started = mpi::initialize_with_threading(Threading::Serialized);
    let (universe, threading) = started.context("MPI cannot be started, or was started twice")?;
    ensure!(threading >= Threading::Serialized, "this MPI serves one thread only; use one that supports several");
    let world = universe.world();
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    Ranks::new(Arc::new(MpiRank { rank, size, limit, report, _universe: universe }))
}

impl Transport for MpiRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, partner: usize, message: &[u8], answer: &mut [u8]) -> Result<()> {
        let n = message.len().max(answer.len()).div_ceil(LONGEST);
        let mut messages = message.chunks(LONGEST);
        let mut answers = answer.chunks_mut(LONGEST);
        for _ in 0..n {
            self.exchange_part(partner, messages.next().unwrap_or_default(), answers.next().unwrap_or_default())?;
        }
        Ok(())
    }

    fn wait_for(&self, partner: usize, begun: Instant) {
        if begun.elapsed() > self.limit {
            (self.report)(&format!("rank {partner} did not answer rank {} for {} s", self.rank, self.limit.as_secs()));
            SimpleCommunicator::world().abort(1);
        }
        if begun.elapsed() > SPIN {
            std::thread::sleep(PAUSE);
        }
    }
}

impl MpiRank {
    fn exchange_part(&self, partner: usize, message: &[u8], answer: &mut [u8]) -> Result<()> {
        let (begun, expected) = (Instant::now(), answer.len());
        // The communicator of all ranks belongs to the thread that asks for it.
        let world = SimpleCommunicator::world();
        let partner_of_mpi = world.process_at_rank(partner as i32);
        let received = scope(|scope| {
            let mut receive = Some(partner_of_mpi.immediate_receive_into(scope, answer));
            let mut send = Some(partner_of_mpi.immediate_send(scope, message));
            let mut received = 0;
            // Both are tested in turn, so that both advance.
            while receive.is_some() || send.is_some() {
                receive = receive.and_then(|request| match request.test() {
                    Ok(status) => {
                        received = status.count(u8::equivalent_datatype());
                        None
                    }
                    Err(request) => Some(request),
                });
                send = send.and_then(|request| request.test().err());
                self.wait_for(partner, begun);
            }
            received as usize
        });
        ensure!(received == expected, "rank {partner} sent {received} bytes instead of {expected}");
        Ok(())
    }
}
