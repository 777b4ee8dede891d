//! GPUs of ranks, which NCCL connects.

use crate::{GpuTransport, Ranks, Transport};
use anyhow::{Context, Result, anyhow};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, group_end, group_start};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Storage, Tensor};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The GPUs of all ranks, as one of them sees them.
#[derive(Debug)]
pub(crate) struct NcclGpus {
    communicator: Mutex<Communicator>,
    gpu: CudaDevice,
    /// Ends all ranks when one does not answer.
    transport: Arc<dyn Transport>,
}

/// NCCL's connection, which any thread may use, one at a time.
#[derive(Debug)]
struct Communicator(Comm);

// SAFETY: NCCL allows calls from any thread of the process, as long as they do not overlap; the stream is shared already.
unsafe impl Send for Communicator {}

/// Connects `gpu` with the GPUs of the other `ranks`, which `transport` connects; none where two ranks share a GPU, which NCCL does
/// not support. All ranks must call it.
///
/// # Errors
/// When NCCL cannot connect them, or as [`Ranks::gather`].
pub(crate) fn connected(ranks: &Ranks, transport: Arc<dyn Transport>, gpu: &CudaDevice) -> Result<Option<NcclGpus>> {
    let stream = gpu.cuda_stream();
    let own = stream.context().uuid().context("the GPU has no identifier")?.bytes.map(|byte| byte as u8);
    let all = ranks.gather(&own)?;
    if (0..all.len()).any(|rank| all[..rank].contains(&all[rank])) {
        return Ok(None);
    }
    let id = match ranks.is_first() {
        true => Id::new().map_err(refused)?,
        false => Id::uninit([0; 128]),
    };
    let id = ranks.first(id.internal().map(|byte| byte as u8))?;
    stream.context().bind_to_thread()?;
    let id = Id::uninit(id.map(|byte| byte as std::ffi::c_char));
    let communicator = Comm::from_rank(stream, ranks.rank(), ranks.size(), id).map_err(refused)?;
    Ok(Some(NcclGpus { communicator: Mutex::new(Communicator(communicator)), gpu: gpu.clone(), transport }))
}

fn refused(error: NcclError) -> anyhow::Error {
    anyhow!("NCCL cannot connect the GPUs of the ranks: {:?}; NCCL_DEBUG=WARN says why", error.0)
}

impl GpuTransport for NcclGpus {
    fn exchange(&self, partner: usize, message: Option<&Tensor>, n: usize) -> Result<Option<Tensor>> {
        let stream = self.gpu.cuda_stream();
        stream.context().bind_to_thread()?;
        // SAFETY: all of it is received before anything reads it.
        let mut answer = (n > 0).then(|| unsafe { self.gpu.alloc::<f32>(n) }).transpose()?;
        let message = message.map(Tensor::contiguous).transpose()?;
        let sent = message.as_ref().map(Tensor::storage_and_layout);
        {
            let communicator = &self.communicator.lock().unwrap_or_else(PoisonError::into_inner).0;
            group_start().map_err(refused)?;
            if let Some((storage, layout)) = &sent {
                let Storage::Cuda(storage) = &**storage else {
                    return Err(anyhow!("what NCCL should send is not on a GPU"));
                };
                let (from, to) =
                    layout.contiguous_offsets().context("what NCCL should send does not lie in one piece")?;
                let numbers = storage.as_cuda_slice::<f32>()?.slice(from..to);
                communicator.send(&numbers, partner as i32).map_err(refused)?;
            }
            if let Some(answer) = &mut answer {
                communicator.recv(answer, partner as i32).map_err(refused)?;
            }
            group_end().map_err(refused)?;
        }
        let (event, begun) = (stream.record_event(None)?, Instant::now());
        while !event.is_complete() {
            self.transport.wait_for(partner, begun);
        }
        Ok(answer.map(|answer| {
            let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(answer, self.gpu.clone()));
            Tensor::from_storage(storage, n, BackpropOp::none(), false)
        }))
    }
}
