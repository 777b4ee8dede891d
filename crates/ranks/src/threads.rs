//! Ranks that are threads of one process, for tests: messages go over channels.

use crate::{GpuTransport, Ranks, Transport};
use anyhow::{Result, anyhow, ensure};
use candle_core::{Device, Tensor};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// One rank's ends of the channels to and from every other.
#[derive(Debug)]
struct Channels {
    rank: usize,
    out: Vec<Sender<Vec<u8>>>,
    into: Vec<Mutex<Receiver<Vec<u8>>>>,
}

impl Transport for Channels {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.out.len()
    }

    fn exchange(&self, partner: usize, message: &[u8], answer: &mut [u8]) -> Result<()> {
        let ended = || anyhow!("rank {partner} has ended");
        self.out[partner].send(message.to_vec()).map_err(|_| ended())?;
        let from = self.into[partner].lock().map_err(|_| ended())?;
        let received = from.recv().map_err(|_| ended())?;
        ensure!(received.len() == answer.len(), "rank {partner} sent {} bytes, not {}", received.len(), answer.len());
        answer.copy_from_slice(&received);
        Ok(())
    }

    fn wait_for(&self, _partner: usize, _begun: Instant) {
        std::thread::yield_now();
    }
}

/// Stands in for what connects GPUs: tensors on the CPU go over `0`.
#[derive(Debug)]
struct TensorsOver(Arc<dyn Transport>);

impl GpuTransport for TensorsOver {
    fn exchange(&self, partner: usize, message: Option<&Tensor>, n: usize) -> Result<Option<Tensor>> {
        let message = message.map(Tensor::to_vec1::<f32>).transpose()?.unwrap_or_default();
        let mut answer = vec![0.0f32; n];
        self.0.exchange(partner, bytemuck::cast_slice(&message), bytemuck::cast_slice_mut(&mut answer))?;
        (n > 0).then(|| Ok(Tensor::from_vec(answer, n, &Device::Cpu)?)).transpose()
    }
}

/// The same ranks, which exchange vectors as tensors, as GPUs do.
pub fn with_tensors(ranks: Ranks) -> Ranks {
    match ranks.transport.clone() {
        Some(transport) => ranks.with_gpus(Arc::new(TensorsOver(transport))),
        None => ranks,
    }
}

/// Runs `f` as each of `size` ranks at the same time; the results by rank.
///
/// # Panics
/// When `f` does, or `size` is no power of two.
pub fn thread_ranks<T: Send>(size: usize, f: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let mut out: Vec<Vec<Sender<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
    let mut into: Vec<Vec<Mutex<Receiver<Vec<u8>>>>> = (0..size).map(|_| Vec::new()).collect();
    for from in &mut out {
        for to in &mut into {
            let (sender, receiver) = channel();
            from.push(sender);
            to.push(Mutex::new(receiver));
        }
    }
    let f = &f;
    std::thread::scope(|scope| {
        let channels = out.into_iter().zip(into).enumerate();
        let threads: Vec<_> = channels
            .map(|(rank, (out, into))| {
                let ranks = Ranks::new(Arc::new(Channels { rank, out, into })).expect("a power of two");
                scope.spawn(move || f(ranks))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("the rank panicked")).collect()
    })
}
