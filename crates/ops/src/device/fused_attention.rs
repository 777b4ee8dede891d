//! Attention in one kernel on an NVIDIA GPU, for operands of bf16: `attention.cu`. Scores never lie in memory.

use super::attention_shape::{AttentionShape, ROWS};
use super::gpu::{KernelArgument as Arg, KernelGrid, launch, unwritten};
use candle_core::{CudaDevice, DType, Result, Tensor};

/// Attention of queries, keys and values that lie beside each other.
pub(super) struct FusedAttention<'a> {
    device: &'a CudaDevice,
    shape: &'a AttentionShape<'a>,
    /// `[B·T, 3·H·k]`, the bias added.
    qkv: &'a Tensor,
    /// Numbers of a head.
    k: usize,
    /// Bits of the weights that dropout keeps, `[B·H, T, ⌈T/32⌉]`.
    kept: Option<Tensor>,
}

impl<'a> FusedAttention<'a> {
    /// Whether the kernel computes attention of `qkv`, `[B·T, 3·H·k]`.
    pub(super) fn fits(qkv: &Tensor, n_head: usize) -> bool {
        let k = qkv.dim(1).unwrap_or(0) / 3 / n_head.max(1);
        qkv.dtype() == DType::BF16 && k.is_multiple_of(8) && (1..=128).contains(&k)
    }

    /// Draws dropout's mask.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(super) fn new(device: &'a CudaDevice, qkv: &'a Tensor, shape: &'a AttentionShape<'a>) -> Result<Self> {
        let ((b, t), k) = (shape.batch(), qkv.dim(1)? / 3 / shape.n_head);
        let words = b * shape.n_head * t * t.div_ceil(32);
        let draw = |_| {
            let kept = unwritten(words, DType::U32, qkv)?;
            let grid = KernelGrid { blocks: (words.div_ceil(256), 1), threads: (256, 1), shared: 0 };
            let arguments = [
                Arg::Tensor(&kept),
                Arg::U64(words as u64),
                Arg::U32(t as u32),
                Arg::U32(shape.kind().0),
                Arg::Drop(shape.dropout()),
            ];
            launch(device, "fused_attention_kept", grid, &arguments).map(|()| kept)
        };
        let kept = shape.drop.filter(|drop| drop.p > 0.0).map(draw).transpose()?;
        Ok(Self { device, shape, qkv, k, kept })
    }

    /// What attention mixes, `[B·T, H·k]`; and log₂ Σ 2^score of each query, `[B·H, T]`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(super) fn forward(&self) -> Result<(Tensor, Tensor)> {
        let ((b, t), h) = (self.shape.batch(), self.shape.n_head);
        let mixed = unwritten((b * t, h * self.k), DType::BF16, self.qkv)?;
        let logs = unwritten((b * h, t), DType::F32, self.qkv)?;
        self.launch("", 4 * ROWS, &[Arg::Tensor(&mixed), Arg::Tensor(&logs)])?;
        Ok((mixed, logs))
    }

    /// The gradient of `qkv` from that of what attention mixed; `mixed`, `logs`: what [`Self::forward`] gave.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub(super) fn backward(&self, mixed: &Tensor, logs: &Tensor, dmixed: &Tensor) -> Result<Tensor> {
        let dqkv = unwritten(self.qkv.shape(), DType::BF16, self.qkv)?;
        let along = unwritten(logs.shape(), DType::F32, self.qkv)?; // Σ mixed·dmixed of each query
        let [mixed, logs, dmixed] = [mixed, logs, dmixed].map(Arg::Tensor);
        let (along, to) = (Arg::Tensor(&along), Arg::Tensor(&dqkv));
        // Two tiles are read while two others arrive.
        let keys = if self.width() == 64 { 64 } else { 32 };
        self.launch("_backward_queries", 4 * keys, &[mixed, dmixed, logs, along, to])?;
        self.launch("_backward_keys", 4 * 32 + 2 * ROWS, &[dmixed, logs, along, to])?;
        Ok(dqkv)
    }

    /// Numbers of a row of a tile.
    fn width(&self) -> usize {
        if self.k <= 64 { 64 } else { 128 }
    }

    /// Runs a kernel whose blocks hold `rows` rows in tiles.
    fn launch(&self, kernel: &str, rows: usize, arguments: &[Arg]) -> Result<()> {
        let ((b, t), h) = (self.shape.batch(), self.shape.n_head);
        let (kind, band) = self.shape.kind();
        let mut all = vec![
            Arg::Tensor(self.qkv),
            Arg::Tensor(&self.shape.sees.tokens),
            Arg::Tensor(&self.shape.sees.spans),
            self.kept.as_ref().map_or(Arg::Null, Arg::Tensor),
            Arg::F32(self.shape.dropout().keep()),
            Arg::U32(t as u32),
            Arg::U32(h as u32),
            Arg::U32(self.k as u32),
            Arg::F32(1.0 / (self.k as f32).sqrt()),
            Arg::U32(kind),
            Arg::U32(band),
        ];
        all.extend_from_slice(arguments);
        let (width, bytes) = (self.width(), size_of::<half::bf16>());
        let grid = KernelGrid { blocks: (b * h, t.div_ceil(ROWS)), threads: (128, 1), shared: rows * width * bytes };
        launch(self.device, &format!("fused_attention{kernel}_{width}"), grid, &all)
    }
}
