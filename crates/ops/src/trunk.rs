//! The blocks of a model one after the other, and the norm after the last: one operation for candle.

use crate::attention::Mask;
use crate::block::{AttentionInput, BatchSizes, Block, BlockWorkspace, DropoutSites, SavedBlock};
use crate::cache::{Cache, LayerCaches};
use crate::cpu::among_the_threads;
use crate::cpu::element::{Element, bf16};
use crate::device;
use crate::gradient_watch::GradientWatch;
use crate::layer_norm::{Norm, Normalized};
use crate::past::Past;
use crate::path::Precision;
use crate::sequences::Sequences;
use crate::slices::{f32s, with_f32s};
use crate::tensor_past::{NewTokens, TensorPast};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A model's blocks and final norm: all layers between the embeddings and the head.
#[derive(Debug)]
pub struct Trunk {
    /// First to last.
    pub blocks: Vec<Block>,
    /// After the last; GPT-1 has none.
    pub ln_f: Option<Norm>,
    memory: TrunkMemory,
}

/// Memory that the passes of a small model work in one after the other. That of a large one is freed in between.
#[derive(Debug, Default)]
struct TrunkMemory(Mutex<Option<Box<dyn Any + Send>>>);

/// Bytes up to which the memory of a pass is kept for the next.
const KEPT: usize = 64 << 20;

impl TrunkMemory {
    fn take<E: Element>(&self) -> PassMemory<E> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.and_then(|kept| kept.downcast().ok()).map_or_else(PassMemory::default, |kept| *kept)
    }

    fn keep<E: Element>(&self, memory: PassMemory<E>) {
        if memory.bytes() <= KEPT {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(memory));
        }
    }
}

/// Buffers of one forward or backward pass.
#[derive(Debug, Default)]
struct PassMemory<E> {
    workspace: BlockWorkspace<E>,
    /// Of blocks whose backward pass is done.
    blocks: Vec<SavedBlock<E>>,
}

impl<E: Element> PassMemory<E> {
    fn bytes(&self) -> usize {
        self.workspace.bytes() + self.blocks.iter().map(SavedBlock::bytes).sum::<usize>()
    }

    /// Takes back what a block saved, if all of it is little enough to be kept.
    fn put_back(&mut self, block: SavedBlock<E>) {
        if self.bytes() + block.bytes() <= KEPT {
            self.blocks.push(block);
        }
    }
}

/// What a forward pass saves for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveForBackward {
    /// Nothing: no backward pass follows.
    Nothing,
    /// All activations that it reads.
    All,
    /// The input of each block; other activations are computed again, block by block (Chen et al. 2016).
    Inputs,
}

impl Trunk {
    /// Blocks from the first to the last, and the norm after them.
    pub fn new(blocks: Vec<Block>, ln_f: Option<Norm>) -> Self {
        Self { blocks, ln_f, memory: TrunkMemory::default() }
    }

    /// `x`: `[B, T, D]` with these `sequences`, which the result is too. `drops`: one for each block, or none at all.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(
        self: &Arc<Self>,
        x: &Tensor,
        sequences: &Arc<Sequences>,
        precision: Precision,
        drops: &[DropoutSites],
        keep: SaveForBackward,
    ) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        if (sequences.n_windows(), sequences.window()) != (b, t) {
            bail!(
                "the sequences have {} windows of {} tokens, but the batch has {b} of {t}",
                sequences.n_windows(),
                sequences.window()
            );
        }
        // Our loops read the sum of matrices and adapters, so they cannot drop the input of the adapters alone.
        let drops_adapters = drops.iter().any(|drops| drops.adapters.iter().any(Option::is_some));
        if !x.device().is_cpu() && !drops_adapters {
            return device::trunk::forward(self, x, sequences, precision, drops, keep);
        }
        if drops_adapters {
            return self.plain(x, sequences, drops, keep != SaveForBackward::Nothing);
        }
        let watch = (keep != SaveForBackward::Nothing).then(GradientWatch::pass_begins).flatten();
        match precision {
            Precision::F32 => self.run::<f32>(x, sequences, precision, drops, keep, watch),
            Precision::Bf16 => self.run::<bf16>(x, sequences, precision, drops, keep, watch),
        }
    }

    fn run<E: Element>(
        self: &Arc<Self>,
        x: &Tensor,
        sequences: &Arc<Sequences>,
        precision: Precision,
        drops: &[DropoutSites],
        keep: SaveForBackward,
        watch: Option<Arc<GradientWatch>>,
    ) -> Result<Tensor> {
        let sequences = Arc::clone(sequences);
        let drops = if drops.is_empty() { vec![DropoutSites::default(); self.blocks.len()] } else { drops.to_vec() };
        let kept = Mutex::default();
        let run = TrunkOp::<E> { trunk: Arc::clone(self), sequences, precision, drops, keep, kept, watch };
        let x = x.contiguous()?;
        if keep == SaveForBackward::Nothing { x.apply_op1_no_bwd(&run) } else { x.apply_op1(run) }
    }

    /// In candle's differentiable operations: the definition of right.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn plain(&self, x: &Tensor, sequences: &Sequences, drops: &[DropoutSites], tracked: bool) -> Result<Tensor> {
        if tracked {
            // It never ends: candle has the gradients, and adds them after the whole backward pass.
            GradientWatch::pass_begins();
        }
        let mut x = x.clone();
        for (layer, block) in self.blocks.iter().enumerate() {
            let drops = drops.get(layer).copied().unwrap_or_default();
            x = block.plain(&x, drops, tracked, AttentionInput::Sequences(sequences))?;
        }
        self.finish(&x, tracked)
    }

    /// The norm after the last block, in candle's operations.
    fn finish(&self, x: &Tensor, tracked: bool) -> Result<Tensor> {
        self.ln_f.as_ref().map_or(Ok(x.clone()), |norm| norm.plain(x, tracked))
    }

    /// As [`Trunk::forward`], for tokens that follow those in `cache`, to which it adds them: sequence by sequence, row by
    /// row.
    ///
    /// # Errors
    /// When the shapes do not fit, a row of `cache` is full, or tokens see later ones.
    pub fn step(&self, x: &Tensor, sequences: &Sequences, cache: &mut Cache) -> Result<Tensor> {
        if self.blocks.iter().any(|block| block.mask == Mask::Full) {
            bail!("a model with bidirectional attention cannot generate from a cache");
        }
        let lens = cache.count(sequences)?;
        match &mut cache.layers {
            LayerCaches::F32(pasts) => self.step_with(x, sequences, Precision::F32, pasts),
            LayerCaches::Bf16(pasts) => self.step_with(x, sequences, Precision::Bf16, pasts),
            LayerCaches::Tensors(pasts, precision) => self.device_step(x, sequences, *precision, &lens, pasts),
            LayerCaches::States(_) => bail!("a transformer cannot use the states of an LSTM cache"),
        }
    }

    fn step_with<E: Element>(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        precision: Precision,
        pasts: &mut [Past<E>],
    ) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let mut stream = with_f32s(&x.contiguous()?, <[f32]>::to_vec)?;
        let y = among_the_threads(|| {
            let (mut kept, mut workspace) = (SavedBlock::default(), BlockWorkspace::default());
            for (block, past) in self.blocks.iter().zip(pasts) {
                block.step::<E>(
                    precision,
                    &mut stream,
                    BatchSizes { sequences, d },
                    past,
                    &mut kept,
                    &mut workspace,
                )?;
            }
            self.normalized::<E>(stream, None)
        })?;
        Tensor::from_vec(y, (b, t, d), x.device())
    }

    /// On a device other than the CPU; rows hold `lens` tokens.
    fn device_step(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        precision: Precision,
        lens: &[usize],
        pasts: &mut [TensorPast],
    ) -> Result<Tensor> {
        let fresh = NewTokens::new(sequences, lens, x.device())?;
        let mut x = x.clone();
        for (block, past) in self.blocks.iter().zip(pasts) {
            let mut attend = |qkv: &Tensor| past.attend(qkv, &fresh, block.n_head, block.mask);
            x = device::trunk::step(block, &x, precision, &mut attend)?;
        }
        device::trunk::finish(self, &x)
    }

    /// The norm after the last block.
    fn normalized<E: Element>(&self, stream: Vec<f32>, kept: Option<&mut Normalized<E>>) -> Result<Vec<f32>> {
        let Some(norm) = &self.ln_f else { return Ok(stream) };
        let mut y = vec![0.0; stream.len()];
        norm.forward(&stream, &mut y, kept)?;
        Ok(y)
    }
}

/// One forward pass, and what it saves for its backward pass.
struct TrunkOp<E> {
    trunk: Arc<Trunk>,
    sequences: Arc<Sequences>,
    precision: Precision,
    drops: Vec<DropoutSites>,
    keep: SaveForBackward,
    kept: Mutex<Option<SavedTrunk<E>>>,
    watch: Option<Arc<GradientWatch>>,
}

struct SavedTrunk<E> {
    /// D.
    d: usize,
    /// With [`SaveForBackward::All`]: of each block.
    blocks: Vec<SavedBlock<E>>,
    /// With [`SaveForBackward::Inputs`]: of each block.
    inputs: Vec<Vec<f32>>,
    last: Normalized<E>,
}

impl<E> fmt::Debug for TrunkOp<E> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("TrunkOp").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl<E: Element> CustomOp1 for TrunkOp<E> {
    fn name(&self) -> &'static str {
        "trunk"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = layout.shape();
        let (_, _, d) = shape.dims3()?;
        let x = f32s(storage, layout, self.name())?;
        let y = among_the_threads(|| self.forward(x.to_vec(), d))?;
        Ok((CpuStorage::F32(y), shape.clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let Some(all) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            bail!("the gradient of a forward pass can be computed only once");
        };
        let dy = with_f32s(&dy.contiguous()?, <[f32]>::to_vec)?;
        let dx = among_the_threads(|| self.backward(dy, all))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

impl<E: Element> TrunkOp<E> {
    /// `x`: input of the first block. Returns the last block's output, normalized.
    fn forward(&self, mut x: Vec<f32>, d: usize) -> Result<Vec<f32>> {
        let sizes = BatchSizes { sequences: &self.sequences, d };
        let mut all = SavedTrunk { d, blocks: Vec::new(), inputs: Vec::new(), last: Normalized::default() };
        let mut memory = self.trunk.memory.take::<E>();
        let mut passing = memory.blocks.pop().unwrap_or_default();
        for (block, drops) in self.trunk.blocks.iter().zip(&self.drops) {
            if self.keep == SaveForBackward::Inputs {
                all.inputs.push(x.clone());
            }
            block.forward(self.precision, &mut x, sizes, drops, &mut passing, &mut memory.workspace)?;
            if self.keep == SaveForBackward::All {
                let next = memory.blocks.pop().unwrap_or_default();
                all.blocks.push(std::mem::replace(&mut passing, next));
            }
        }
        memory.put_back(passing);
        self.trunk.memory.keep(memory);
        let y = self.trunk.normalized(x, Some(&mut all.last))?;
        if self.keep != SaveForBackward::Nothing {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        }
        Ok(y)
    }

    /// `dx`: gradient of the result of [`TrunkOp::forward`], which saved `all`. Returns the gradient of its input.
    fn backward(&self, mut dx: Vec<f32>, mut all: SavedTrunk<E>) -> Result<Vec<f32>> {
        if let Some(norm) = &self.trunk.ln_f {
            norm.backward(None, &all.last, &mut dx)?;
        }
        let sizes = BatchSizes { sequences: &self.sequences, d: all.d };
        let mut memory = self.trunk.memory.take::<E>();
        for (block, drops) in self.trunk.blocks.iter().zip(&self.drops).rev() {
            let mut kept = match (all.blocks.pop(), all.inputs.pop()) {
                (Some(kept), _) => kept,
                (None, Some(mut input)) => {
                    let mut kept = memory.blocks.pop().unwrap_or_default();
                    block.forward(self.precision, &mut input, sizes, drops, &mut kept, &mut memory.workspace)?;
                    kept
                }
                (None, None) => bail!("a block saved nothing for the backward pass"),
            };
            block.backward(self.precision, &mut dx, sizes, drops, &mut kept, &mut memory.workspace)?;
            memory.put_back(kept);
            self.watch.iter().for_each(|watch| watch.block_is_done(block));
        }
        self.watch.iter().for_each(|watch| watch.pass_ends());
        self.trunk.memory.keep(memory);
        Ok(dx)
    }
}

#[cfg(test)]
mod tests;
