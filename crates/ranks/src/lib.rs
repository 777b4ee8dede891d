//! Processes that train one model together: ranks, as MPI calls them, numbered from 0.
//!
//! What they exchange is defined so that the result has the same bits on any number of ranks. Gradients are added as a binary
//! tree whose leaves are fixed ([`Ranks::scatter_sum`]): at each level a rank adds what its partner has of one half of the
//! numbers that both have, so that all ranks together move as much as in a ring, and each ends with the sum of one slice.

#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod slices;
#[cfg(any(test, feature = "testing"))]
mod threads;
#[cfg(any(test, feature = "testing"))]
mod vectors;

#[cfg(feature = "mpi")]
pub use crate::mpi::mpi_ranks;
pub use slices::{Numbers, slice_of};
#[cfg(any(test, feature = "testing"))]
pub use threads::{thread_ranks, with_tensors};
#[cfg(any(test, feature = "testing"))]
pub use vectors::{leaf, sum_of_ranks, tree_sum};

use anyhow::{Result, ensure};
use bytemuck::Pod;
use candle_core::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How ranks reach each other.
pub trait Transport: Debug + Send + Sync {
    /// The number of this rank.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Sends `message` to `partner`, and fills `answer` with what `partner` sends meanwhile.
    ///
    /// # Errors
    /// When `partner` has ended, or does not answer in time.
    fn exchange(&self, partner: usize, message: &[u8], answer: &mut [u8]) -> Result<()>;

    /// Is called again and again while something other than [`Transport::exchange`] waits for `partner`, since `begun`. Leaves
    /// the core to others, and ends all ranks when `partner` does not answer in time.
    fn wait_for(&self, partner: usize, begun: Instant);
}

/// How ranks exchange numbers that lie on GPUs, without the memory of the CPU.
pub trait GpuTransport: Debug + Send + Sync {
    /// Sends `message`, f32 numbers on the GPU of this rank, to `partner`, and returns the `n` numbers that `partner` sends
    /// meanwhile. There is no message, or no answer, where it would be empty.
    ///
    /// # Errors
    /// When the numbers cannot be sent, or memory does not suffice.
    fn exchange(&self, partner: usize, message: Option<&Tensor>, n: usize) -> Result<Option<Tensor>>;
}

/// The ranks of a run, as one of them sees them.
#[derive(Debug, Clone, Default)]
pub struct Ranks {
    /// None where one process trains alone.
    transport: Option<Arc<dyn Transport>>,
    /// None where numbers are exchanged through the memory of the CPU.
    gpus: Option<Arc<dyn GpuTransport>>,
    /// Nanoseconds spent waiting for other ranks.
    waited: Option<Arc<AtomicU64>>,
}

/// One process.
pub static ALONE: Ranks = Ranks { transport: None, gpus: None, waited: None };

impl Ranks {
    /// Ranks that `transport` connects.
    ///
    /// # Errors
    /// When their number is no power of two: sums of that many parts are no binary tree.
    pub fn new(transport: Arc<dyn Transport>) -> Result<Self> {
        let size = transport.size();
        ensure!(size.is_power_of_two(), "there are {size} ranks; their number must be a power of two");
        Ok(Self { transport: Some(transport).filter(|_| size > 1), gpus: None, waited: Some(Arc::default()) })
    }

    /// These ranks, whose GPUs `gpus` connects: slices of vectors ([`Ranks::scatter_sum`]) then lie on them.
    #[must_use]
    pub fn with_gpus(self, gpus: Arc<dyn GpuTransport>) -> Self {
        Self { gpus: Some(gpus), ..self }
    }

    /// These ranks, to exchange vectors that lie on `device`: with NCCL where each rank has a GPU of its own, in a binary that
    /// was built with it. Every rank must call it.
    ///
    /// # Errors
    /// When NCCL cannot connect the GPUs, or as [`Ranks::gather`].
    pub fn on(&self, device: &Device) -> Result<Self> {
        #[cfg(feature = "nccl")]
        if let (Device::Cuda(gpu), Some(transport)) = (device, &self.transport) {
            let gpus = nccl::connected(self, Arc::clone(transport), gpu)?;
            return Ok(gpus.map_or_else(|| self.clone(), |gpus| self.clone().with_gpus(Arc::new(gpus))));
        }
        let _ = device;
        Ok(self.clone())
    }

    /// The number of this rank.
    pub fn rank(&self) -> usize {
        self.transport.as_ref().map_or(0, |transport| transport.rank())
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.transport.as_ref().map_or(1, |transport| transport.size())
    }

    /// Whether this rank is the one that writes files and reports progress.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether one process trains alone.
    pub fn is_alone(&self) -> bool {
        self.transport.is_none()
    }

    /// How long this rank has waited for others, as [`Ranks::count_waiting`] was told; time to send and receive is a part of it.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.as_ref().map_or(0, |waited| waited.load(Ordering::Relaxed)))
    }

    /// Adds to the time that [`Ranks::waited`] gives. [`Ranks::gather`] and [`Ranks::gather_slices`] do so themselves;
    /// [`Ranks::scatter_sum`] may run beside other work.
    pub fn count_waiting(&self, time: Duration) {
        self.waited.iter().for_each(|waited| _ = waited.fetch_add(time.as_nanos() as u64, Ordering::Relaxed));
    }

    /// What all ranks give as `own`, by rank. Every rank must call it.
    ///
    /// # Errors
    /// When a rank has ended, or does not answer in time.
    pub fn gather<T: Pod>(&self, own: &[T]) -> Result<Vec<Vec<T>>> {
        let begun = Instant::now();
        let all = self.gather_all(own);
        self.count_waiting(begun.elapsed());
        all
    }

    fn gather_all<T: Pod>(&self, own: &[T]) -> Result<Vec<Vec<T>>> {
        let mut all = vec![own.to_vec()];
        let Some(transport) = &self.transport else { return Ok(all) };
        // After each level a rank has what the ranks have whose numbers differ from its own in the bits so far.
        for bit in (0..).map(|level| 1 << level).take_while(|bit| *bit < self.size()) {
            let partner = self.rank() ^ bit;
            let lengths: Vec<u64> = all.iter().map(|one| one.len() as u64).collect();
            let mut theirs = vec![0u64; lengths.len()];
            transport.exchange(partner, bytemuck::cast_slice(&lengths), bytemuck::cast_slice_mut(&mut theirs))?;
            let message = all.concat();
            let mut answer = vec![T::zeroed(); theirs.iter().sum::<u64>() as usize];
            transport.exchange(partner, bytemuck::cast_slice(&message), bytemuck::cast_slice_mut(&mut answer))?;
            let mut rest = answer.as_slice();
            let mut others = Vec::new();
            for n in theirs {
                let (one, left) = rest.split_at(n as usize);
                others.push(one.to_vec());
                rest = left;
            }
            match partner < self.rank() {
                true => all.splice(0..0, others).for_each(drop),
                false => all.extend(others),
            }
        }
        Ok(all)
    }

    /// Waits until every rank has called this.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub fn wait(&self) -> Result<()> {
        self.gather::<u8>(&[]).map(drop)
    }

    /// Returns the first rank's `own` on every rank. Every rank must call it.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub fn first<T: Pod>(&self, own: T) -> Result<T> {
        Ok(self.gather(&[own])?[0][0])
    }

    /// The sum of what all ranks give as `own`.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub fn sum(&self, own: u64) -> Result<u64> {
        Ok(self.gather(&[own])?.iter().flatten().sum())
    }

    /// The results of `f` for the numbers up to `n`, one part after the other; each rank computes one part
    /// together, if there is one for it.
    ///
    /// # Errors
    /// That of `f`, or as [`Ranks::gather`].
    pub fn share_parts<T: Pod>(&self, n: usize, f: impl FnOnce(Range<usize>) -> Result<Vec<T>>) -> Result<Vec<T>> {
        let (rank, size) = (self.rank(), self.size());
        let part = n * rank / size..n * (rank + 1) / size;
        if self.is_alone() {
            return f(part);
        }
        let own = if part.is_empty() { Vec::new() } else { f(part)? };
        Ok(self.gather(&own)?.concat())
    }

    /// As [`Ranks::share_parts`], of records, one for each number, which other ranks receive as JSON: numbers that are not
    /// finite are lost.
    ///
    /// # Errors
    /// That of `f`, or as [`Ranks::gather`].
    pub fn share_records<T: Serialize + DeserializeOwned>(
        &self,
        n: usize,
        f: impl FnOnce(Range<usize>) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        if self.is_alone() {
            return f(0..n);
        }
        let told = self.share_parts(n, |own| {
            let lines = f(own)?.into_iter().map(|record| Ok(serde_json::to_string(&record)? + "\n"));
            Ok(lines.collect::<Result<String>>()?.into_bytes())
        })?;
        std::str::from_utf8(&told)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The results of `f` for the numbers up to `n`, each computed by one of the ranks.
    ///
    /// # Errors
    /// The first one of `f`, or as [`Ranks::gather`].
    pub fn share_out<T: Pod>(&self, n: usize, f: impl FnMut(usize) -> Result<Vec<T>>) -> Result<Vec<Vec<T>>> {
        let (rank, size) = (self.rank(), self.size());
        let own = (rank..n).step_by(size).map(f).collect::<Result<Vec<Vec<T>>>>()?;
        if self.is_alone() {
            return Ok(own);
        }
        let lengths: Vec<u64> = own.iter().map(|one| one.len() as u64).collect();
        let (lengths, all) = (self.gather(&lengths)?, self.gather(&own.concat())?);
        let mut left: Vec<&[T]> = all.iter().map(Vec::as_slice).collect();
        let next = |i: usize| {
            let (one, rest) = left[i % size].split_at(lengths[i % size][i / size] as usize);
            left[i % size] = rest;
            one.to_vec()
        };
        Ok((0..n).map(next).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_gets_what_all_have_in_their_order() {
        for size in [1, 2, 4, 8] {
            let found = thread_ranks(size, |ranks| {
                let own: Vec<u32> = (0..ranks.rank() as u32).collect();
                let parts = ranks.share_parts(5, |own| Ok(own.map(|i| i as u32).collect())).unwrap();
                assert_eq!(parts, [0, 1, 2, 3, 4]);
                let names = ranks.share_records(3, |own| Ok(own.map(|i| format!("{i}\n")).collect())).unwrap();
                assert_eq!(names, ["0\n", "1\n", "2\n"]);
                assert_eq!((ranks.first(ranks.rank() as u8).unwrap(), ranks.sum(2).unwrap()), (0, 2 * size as u64));
                (ranks.rank(), ranks.gather(&own).unwrap(), ranks.share_out(5, |i| Ok(vec![7; i])).unwrap())
            });
            let expected: Vec<Vec<u32>> = (0..size as u32).map(|rank| (0..rank).collect()).collect();
            for (rank, (own, gathered, shared)) in found.into_iter().enumerate() {
                assert_eq!(
                    (own, &gathered, shared),
                    (rank, &expected, (0..5).map(|i| vec![7u64; i]).collect::<Vec<_>>())
                );
            }
        }
    }

    #[test]
    fn a_rank_that_has_ended_is_named() {
        let found = thread_ranks(2, |ranks| if ranks.rank() == 1 { Ok(()) } else { ranks.wait() });
        assert!(found[1].is_ok());
        assert_eq!(found[0].as_ref().unwrap_err().to_string(), "rank 1 has ended");
    }
}
