//! One transformer block: attention, then an MLP, each with its residual sum and layer norm. In candle's operations, and
//! on the CPU in place on the residual stream: forward, backward, and token by token.
//!
//! The forward pass saves the normalized rows, the projection, the mixed values and the input of the MLP's GELU for the
//! backward pass, which computes everything else again.

use crate::attention::{Mask, attention_weights};
use crate::cpu::element::Element;
use crate::dropout::{Dropout, dropout};
use crate::gelu;
use crate::layer_norm::{Norm, Normalized};
use crate::linear::{Linear, round};
use crate::parameter::Parameter;
use crate::past::Past;
use crate::path::Precision;
use crate::self_attention::{SelfAttention, self_attention, split_heads};
use crate::sequences::Sequences;
use crate::slices::{add_to, zeros};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// A block's weights and shape.
#[derive(Debug, Clone)]
pub struct Block {
    /// Whether sublayers read the normalized stream (GPT-2: Radford et al. 2019, §2.3); if not, their sums are normalized
    /// (GPT-1: Radford et al. 2018, after Vaswani et al. 2017).
    pub norm_first: bool,
    /// Attention heads; divides D.
    pub n_head: usize,
    /// Which tokens of its sequence a token attends to.
    pub mask: Mask,
    /// Before attention, or after its residual sum.
    pub ln_1: Norm,
    /// To queries, keys and values, `[D, 3·D]`.
    pub c_attn: Linear,
    /// From mixed values, `[D, D]`.
    pub attn_proj: Linear,
    /// Before the MLP, or after its residual sum.
    pub ln_2: Norm,
    /// The MLP's first layer, `[D, 4·D]`.
    pub c_fc: Linear,
    /// The MLP's second layer, `[4·D, D]`.
    pub mlp_proj: Linear,
}

/// Where a block applies dropout.
#[derive(Debug, Clone, Copy, Default)]
pub struct DropoutSites {
    /// Attention weights.
    pub attention: Option<Dropout>,
    /// Attention's output, before the residual sum.
    pub attended: Option<Dropout>,
    /// The MLP's output, before the residual sum.
    pub mlp: Option<Dropout>,
    /// The input of the adapters of [`Block::linears`], in their order. Only [`Block::plain`] computes it.
    pub adapters: [Option<Dropout>; 4],
}

/// Takes queries, keys and values of new tokens, `[B, T, 3·D]`, and returns what they mix, `[B, T, D]`.
pub type CachedAttention<'a> = &'a mut dyn FnMut(&Tensor) -> Result<Tensor>;

/// The other tokens that tokens attend to.
pub enum AttentionInput<'a> {
    /// The other tokens of their sequences.
    Sequences(&'a Sequences),
    /// Cached earlier tokens.
    Past(CachedAttention<'a>),
}

impl Block {
    /// Its affine maps, in the order in which a forward pass reads them.
    pub fn linears(&self) -> [&Linear; 4] {
        [&self.c_attn, &self.attn_proj, &self.c_fc, &self.mlp_proj]
    }

    /// Its weights.
    pub(crate) fn parameters(&self) -> [&Arc<Parameter>; 12] {
        let [[a, b], [c, d]] = [&self.ln_1, &self.ln_2].map(|norm| [&norm.gain, &norm.bias]);
        let [[e, f], [g, h], [i, j], [k, l]] = self.linears().map(|linear| [&linear.weight, &linear.bias]);
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// `x`: residual stream, `[B, T, D]`; so is the result. In candle's differentiable operations: the definition of
    /// right, and the path on devices without loops of ours.
    ///
    /// # Errors
    /// When the shapes do not fit, or the past fails.
    pub fn plain(&self, x: &Tensor, drops: DropoutSites, tracked: bool, around: AttentionInput) -> Result<Tensor> {
        if self.norm_first {
            let x = (x + self.plain_attend(&self.ln_1.plain(x, tracked)?, drops, tracked, around)?)?;
            &x + self.plain_mlp(&self.ln_2.plain(&x, tracked)?, drops, tracked)?
        } else {
            let x = self.ln_1.plain(&(x + self.plain_attend(x, drops, tracked, around)?)?, tracked)?;
            self.ln_2.plain(&(&x + self.plain_mlp(&x, drops, tracked)?)?, tracked)
        }
    }

    fn plain_attend(&self, x: &Tensor, drops: DropoutSites, tracked: bool, around: AttentionInput) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let qkv = self.c_attn.plain_dropping(&x.reshape((b * t, d))?, b, tracked, drops.adapters[0])?.reshape((
            b,
            t,
            3 * d,
        ))?;
        let mixed = match around {
            AttentionInput::Sequences(sequences) => {
                self_attention(&qkv, self.n_head, self.mask, sequences, drops.attention)?
            }
            AttentionInput::Past(attend) => attend(&qkv)?,
        };
        let y = self
            .attn_proj
            .plain_dropping(&mixed.reshape((b * t, d))?, b, tracked, drops.adapters[1])?
            .reshape((b, t, d))?;
        drops.attended.map_or(Ok(y.clone()), |at| dropout(&y, at))
    }

    fn plain_mlp(&self, x: &Tensor, drops: DropoutSites, tracked: bool) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let wide = gelu::gelu(&self.c_fc.plain_dropping(&x.reshape((b * t, d))?, b, tracked, drops.adapters[2])?)?; // [B·T, 4·D]
        let y = self.mlp_proj.plain_dropping(&wide, b, tracked, drops.adapters[3])?.reshape((b, t, d))?;
        drops.mlp.map_or(Ok(y.clone()), |at| dropout(&y, at))
    }

    /// How much each token takes of each earlier one: `x` `[B, T, D]` → `[B, H, T, T]`, rows summing to 1.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn attention_weights(&self, x: &Tensor) -> Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let read = if self.norm_first { self.ln_1.plain(x, false)? } else { x.clone() };
        let qkv = self.c_attn.plain(&read.reshape((b * t, d))?, false)?.reshape((b, t, 3 * d))?;
        let [queries, keys, _] = split_heads(&qkv, self.n_head)?; // [B, H, T, K]
        attention_weights(&queries, &keys, self.mask, None)
    }
}

/// Sizes of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchSizes<'a> {
    pub(crate) sequences: &'a Sequences,
    /// D.
    pub(crate) d: usize,
}

impl BatchSizes<'_> {
    fn tokens(self) -> usize {
        self.sequences.n_tokens()
    }

    fn b(self) -> usize {
        self.sequences.n_windows()
    }

    fn t(self) -> usize {
        self.sequences.window()
    }
}

/// What a block saves for its backward pass.
#[derive(Debug, Default)]
pub(crate) struct SavedBlock<E> {
    /// Attention's input, `[N, D]`, where it is not the normalized stream.
    input: Vec<E>,
    ln_1: Normalized<E>,
    /// `[N, 3·D]`
    qkv: Vec<E>,
    /// Logarithms of attention's sums, `[B, H, T]`.
    sums: Vec<f32>,
    /// `[N, D]`
    mixed: Vec<E>,
    ln_2: Normalized<E>,
    /// GELU's input, `[N, 4·D]`; after the backward pass its gradient.
    wide: Vec<E>,
}

/// Memory that all blocks work in, one after the other.
#[derive(Debug, Default)]
pub(crate) struct BlockWorkspace<E> {
    /// Input of a projection, `[N, D]`.
    read: Vec<E>,
    /// GELU's output, `[N, 4·D]`.
    active: Vec<E>,
    /// `[N, D]`
    stream: Vec<f32>,
    /// Gradient after dropout, `[N, D]`.
    dropped: Vec<f32>,
    /// `[N, D]`
    dmixed: Vec<E>,
    /// `[N, 3·D]`
    dqkv: Vec<E>,
}

fn bytes_of<T>(vec: &Vec<T>) -> usize {
    vec.capacity() * size_of::<T>()
}

impl<E: Element> SavedBlock<E> {
    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let Self { input, ln_1, qkv, sums, mixed, ln_2, wide } = self;
        let rows = [input, qkv, mixed, wide, &ln_1.rows, &ln_2.rows].map(bytes_of);
        rows.into_iter().sum::<usize>() + bytes_of(sums)
    }
}

impl<E: Element> BlockWorkspace<E> {
    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let Self { read, active, stream, dropped, dmixed, dqkv } = self;
        [read, active, dmixed, dqkv].map(bytes_of).into_iter().chain([stream, dropped].map(bytes_of)).sum()
    }
}

/// `vec` with room for `n` numbers, whose values are left over.
fn sized<T: Element>(vec: &mut Vec<T>, n: usize) -> &mut [T] {
    if vec.capacity() < n {
        *vec = zeros(n)
    } else {
        vec.resize(n, T::default())
    }
    vec
}

impl Block {
    /// Width of the MLP.
    fn wide(&self) -> Result<usize> {
        Ok(self.c_fc.widths()?.1)
    }

    fn self_attention<'a>(&self, sizes: BatchSizes<'a>, drops: &DropoutSites) -> SelfAttention<'a> {
        SelfAttention { sequences: sizes.sequences, n_head: self.n_head, mask: self.mask, drop: drops.attention }
    }

    /// `x`: residual stream, `[N, D]`, changed in place. Activations for the backward pass go to `kept`.
    pub(crate) fn forward<E: Element>(
        &self,
        precision: Precision,
        x: &mut [f32],
        sizes: BatchSizes,
        drops: &DropoutSites,
        kept: &mut SavedBlock<E>,
        workspace: &mut BlockWorkspace<E>,
    ) -> Result<()> {
        self.project(precision, x, sizes, kept, workspace)?;
        let mixed = sized(&mut kept.mixed, sizes.tokens() * sizes.d);
        let sums = sized(&mut kept.sums, sizes.tokens() * self.n_head);
        self.self_attention(sizes, drops).forward(precision, &kept.qkv, mixed, sums);
        self.finish(precision, x, sizes, drops, kept, workspace)
    }

    /// The first part of a block: writes queries, keys and values to `kept.qkv`.
    fn project<E: Element>(
        &self,
        precision: Precision,
        x: &[f32],
        sizes: BatchSizes,
        kept: &mut SavedBlock<E>,
        workspace: &mut BlockWorkspace<E>,
    ) -> Result<()> {
        let n = sizes.tokens();
        let read: &[E] = if self.norm_first {
            let read = sized(&mut workspace.read, n * sizes.d);
            self.ln_1.forward(x, read, Some(&mut kept.ln_1))?;
            read
        } else {
            let input = sized(&mut kept.input, n * sizes.d);
            round(x, input);
            input
        };
        self.c_attn.write(precision, read, sized(&mut kept.qkv, 3 * n * sizes.d))
    }

    /// The rest of a block, from `kept.mixed`.
    fn finish<E: Element>(
        &self,
        precision: Precision,
        x: &mut [f32],
        sizes: BatchSizes,
        drops: &DropoutSites,
        kept: &mut SavedBlock<E>,
        workspace: &mut BlockWorkspace<E>,
    ) -> Result<()> {
        let (n, wide) = (sizes.tokens(), self.wide()?);
        add_to_stream(&self.attn_proj, precision, &kept.mixed, x, sizes, drops.attended)?;
        let read = sized(&mut workspace.read, n * sizes.d);
        if self.norm_first {
            self.ln_2.forward(x, read, Some(&mut kept.ln_2))?;
        } else {
            normalize_stream(&self.ln_1, x, &mut kept.ln_1, &mut workspace.stream)?;
            round(x, read);
        }
        let outputs = (sized(&mut kept.wide, n * wide), sized(&mut workspace.active, n * wide));
        self.c_fc.forward(precision, read, outputs, |_, sums, bias, (wide, active)| {
            gelu::forward::<E>(sums, bias, wide, active);
        })?;
        add_to_stream(&self.mlp_proj, precision, &workspace.active, x, sizes, drops.mlp)?;
        if !self.norm_first {
            normalize_stream(&self.ln_2, x, &mut kept.ln_2, &mut workspace.stream)?;
        }
        Ok(())
    }

    /// `dx`: gradient of the block's output, `[N, D]`, changed in place into that of its input. Adds the gradients of the
    /// weights to theirs.
    pub(crate) fn backward<E: Element>(
        &self,
        precision: Precision,
        dx: &mut [f32],
        sizes: BatchSizes,
        drops: &DropoutSites,
        kept: &mut SavedBlock<E>,
        workspace: &mut BlockWorkspace<E>,
    ) -> Result<()> {
        let (n, d, wide) = (sizes.tokens(), sizes.d, self.wide()?);
        if !self.norm_first {
            self.ln_2.backward(None, &kept.ln_2, dx)?;
        }
        let BlockWorkspace { read, active, stream, dropped, dmixed, dqkv } = workspace;
        let dy = with_drop(dx, dropped, sizes, drops.mlp);
        let active = sized(active, n * wide);
        let outputs = (&mut kept.wide[..], &mut *active);
        self.mlp_proj.backward(precision, dy, outputs, |sums, (wide, active)| {
            gelu::backward::<E>(sums, wide, active);
        })?;
        self.mlp_proj.add_weight_gradients(precision, active, dy)?;
        let read = sized(read, n * d);
        let norm = if self.norm_first { (&self.ln_2, &kept.ln_2) } else { (&self.ln_1, &kept.ln_1) };
        norm.0.renormalize(norm.1, read)?;
        self.c_fc.add_weight_gradients(precision, read, &kept.wide)?;
        self.input_gradient(precision, &self.c_fc, &kept.wide, dx, stream)?;
        if self.norm_first {
            self.ln_2.backward(Some(stream), &kept.ln_2, dx)?;
        } else {
            self.ln_1.backward(None, &kept.ln_1, dx)?;
        }
        let dy = with_drop(dx, dropped, sizes, drops.attended);
        self.attn_proj.add_weight_gradients(precision, &kept.mixed, dy)?;
        let dmixed = sized(dmixed, n * d);
        self.attn_proj.backward(precision, dy, &mut *dmixed, |sums, dmixed| round::<E>(sums, dmixed))?;
        let dqkv = sized(dqkv, 3 * n * d);
        let mixed = (&*kept.mixed, &*dmixed);
        self.self_attention(sizes, drops).backward(precision, &kept.qkv, mixed, &kept.sums, dqkv);
        if self.norm_first {
            self.ln_1.renormalize(&kept.ln_1, read)?;
        }
        self.c_attn.add_weight_gradients(precision, if self.norm_first { &*read } else { &kept.input }, dqkv)?;
        self.input_gradient(precision, &self.c_attn, dqkv, dx, stream)?;
        if self.norm_first {
            self.ln_1.backward(Some(stream), &kept.ln_1, dx)?;
        }
        Ok(())
    }

    /// The gradient of the input of `linear`: written to `stream` where a norm comes before it, else added to `dx`.
    fn input_gradient<E: Element>(
        &self,
        precision: Precision,
        linear: &Linear,
        dy: &[E],
        dx: &mut [f32],
        stream: &mut Vec<f32>,
    ) -> Result<()> {
        let out = if self.norm_first { sized(stream, dx.len()) } else { dx };
        let add = !self.norm_first;
        linear.backward(precision, dy, out, |sums, out| if add { add_to(sums, out) } else { out.copy_from_slice(sums) })
    }

    /// As [`Block::forward`] without dropout, for tokens that follow those whose keys and values `past` holds, to which it
    /// adds theirs.
    pub(crate) fn step<E: Element>(
        &self,
        precision: Precision,
        x: &mut [f32],
        sizes: BatchSizes,
        past: &mut Past<E>,
        kept: &mut SavedBlock<E>,
        workspace: &mut BlockWorkspace<E>,
    ) -> Result<()> {
        self.project(precision, x, sizes, kept, workspace)?;
        let mixed = sized(&mut kept.mixed, sizes.tokens() * sizes.d);
        past.step(&kept.qkv, sizes.sequences, (self.n_head, self.mask), mixed);
        self.finish(precision, x, sizes, &DropoutSites::default(), kept, workspace)
    }
}

/// `x += dropout(linear(read))`.
fn add_to_stream<E: Element>(
    linear: &Linear,
    precision: Precision,
    read: &[E],
    x: &mut [f32],
    sizes: BatchSizes,
    drop: Option<Dropout>,
) -> Result<()> {
    linear.forward(precision, read, x, |at, sums, bias, x| {
        // The sums are this call's own: they are read here only.
        for (sum, bias) in sums.iter_mut().zip(bias) {
            *sum += bias;
        }
        if let Some(drop) = drop {
            drop.apply_from(sums, at as u64, sizes.t() * sizes.d);
        }
        add_to(sums, x);
    })
}

/// `x = norm(x)`. `workspace` holds the old `x` meanwhile.
fn normalize_stream<E: Element>(
    norm: &Norm,
    x: &mut [f32],
    kept: &mut Normalized<E>,
    workspace: &mut Vec<f32>,
) -> Result<()> {
    let old = sized(workspace, x.len());
    old.copy_from_slice(x);
    norm.forward(old, x, Some(kept))
}

/// `dx`, or its copy after dropout, in `workspace`.
fn with_drop<'a>(dx: &'a [f32], workspace: &'a mut Vec<f32>, sizes: BatchSizes, drop: Option<Dropout>) -> &'a [f32] {
    let Some(drop) = drop else { return dx };
    let dropped = sized(workspace, dx.len());
    dropped.copy_from_slice(dx);
    drop.apply(dropped, sizes.b());
    dropped
}
