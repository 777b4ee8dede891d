//! Keys and values of past tokens in candle's tensors, for devices other than the CPU, and attention of new tokens to them.

use crate::attention::Mask;
use crate::device::products::product;
use crate::self_attention::{merge_heads, split_heads};
use crate::sequences::Sequences;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use std::cell::RefCell;
use std::ops::Range;

/// Positions by which room grows, so that it seldom does; in tests it does.
pub(crate) const GROWTH: usize = if cfg!(test) { 4 } else { 256 };

/// The past of a batch of sequences in one layer: keys and values, `[B, H, R, K]` each, where what lies past the end of a
/// sequence may be anything; none before the first token.
#[derive(Debug, Default)]
pub(crate) struct TensorPast(Option<(Tensor, Tensor)>);

/// New tokens of all sequences, and where they go.
pub(crate) struct NewTokens<'a> {
    /// Tokens held of each sequence.
    lens: &'a [usize],
    /// T: new tokens of the sequence that has most.
    longest: usize,
    /// Places of new tokens as `[B, T]`, padded, and the places of these there; where not all sequences have `T`.
    padding: Option<(Tensor, Tensor)>,
    /// Where sequences have unequal pasts: the position of each token of `[B, T]`, as `[B, 1, T, 1]`.
    positions: Option<Tensor>,
    /// What is added to the scores of queries under each mask that was asked for, if anything.
    biases: RefCell<Vec<(Mask, Option<Tensor>)>>,
    device: Device,
}

impl<'a> NewTokens<'a> {
    /// Of `sequences` that follow `lens` tokens each.
    pub(crate) fn new(sequences: &Sequences, lens: &'a [usize], device: &Device) -> Result<Self> {
        let (b, longest) = (sequences.len(), sequences.longest());
        let mut padding = None;
        if sequences.iter().any(|tokens| tokens.len() < longest) {
            let place =
                |tokens: Range<usize>| (0..longest).map(move |i| (tokens.start + i.min(tokens.len() - 1)) as u32);
            let padded: Vec<u32> = sequences.iter().flat_map(place).collect();
            let back =
                |(row, tokens): (usize, Range<usize>)| (0..tokens.len()).map(move |i| (row * longest + i) as u32);
            let back: Vec<u32> = sequences.iter().enumerate().flat_map(back).collect();
            padding = Some((Tensor::new(padded, device)?, Tensor::new(back, device)?));
        }
        let mut positions = None;
        if lens.iter().any(|&len| len != lens[0]) {
            // What is padding falls behind its sequence, into room that there is for the longest.
            let at = lens.iter().flat_map(|&len| (0..longest).map(move |i| (len + i) as u32)).collect();
            positions = Some(Tensor::from_vec(at, (b, 1, longest, 1), device)?);
        }
        Ok(Self { lens, longest, padding, positions, biases: RefCell::default(), device: device.clone() })
    }

    /// What hides keys from queries under `mask`: 0 where a query sees a key, else −∞, `[B or 1, 1, T, end]`. Nothing when
    /// all see all.
    fn bias(&self, mask: Mask) -> Result<Option<Tensor>> {
        let held = self.biases.borrow().iter().find(|(of, _)| *of == mask).map(|(_, bias)| bias.clone());
        if let Some(bias) = held {
            return Ok(bias);
        }
        let (q, t) = (self.longest, self.end());
        let rows = if self.positions.is_some() { self.lens } else { &self.lens[..self.lens.len().min(1)] };
        let seen = |len: usize, i: usize| {
            let seen = mask.visible(len + i);
            seen.start..seen.end.min(len + q).min(t)
        };
        let queries = || rows.iter().flat_map(|&len| (0..q).map(move |i| (len, i)));
        let bias = if queries().all(|(len, i)| seen(len, i) == (0..t)) {
            None
        } else {
            let mut bias = vec![f32::NEG_INFINITY; rows.len() * q * t];
            for ((len, i), bias) in queries().zip(bias.chunks_exact_mut(t)) {
                bias[seen(len, i)].fill(0.0);
            }
            Some(Tensor::from_vec(bias, (rows.len(), 1, q, t), &self.device)?)
        };
        self.biases.borrow_mut().push((mask, bias.clone()));
        Ok(bias)
    }

    /// Positions up to the last that is written.
    fn end(&self) -> usize {
        self.lens.iter().max().unwrap_or(&0) + self.longest
    }
}

impl TensorPast {
    /// Adds the keys and values of `fresh` tokens, and returns what these mix, in the shape of `qkv` but for its width, D.
    /// `qkv`: theirs, 3·D wide.
    #[expect(clippy::disallowed_methods, reason = "what reads a past takes no gradients")]
    pub(crate) fn attend(&mut self, qkv: &Tensor, fresh: &NewTokens, n_head: usize, mask: Mask) -> Result<Tensor> {
        let (windows, window, width) = qkv.dims3()?;
        let (b, t) = (fresh.lens.len(), fresh.longest);
        let flat = qkv.reshape(((), width))?;
        let padded = match &fresh.padding {
            Some((places, _)) => flat.index_select(places, 0)?,
            None => flat,
        };
        let [queries, keys, values] = split_heads(&padded.reshape((b, t, width))?, n_head)?; // [B, H, T, K]
        let (keys, values) = (keys.contiguous()?, values.contiguous()?);
        let (all_keys, all_values) = self.room(&keys, fresh.end())?;
        match &fresh.positions {
            None => {
                all_keys.slice_set(&keys, 2, fresh.lens[0])?;
                all_values.slice_set(&values, 2, fresh.lens[0])?;
            }
            Some(positions) => {
                let positions = positions.broadcast_as(keys.shape())?.contiguous()?;
                all_keys.scatter_set(&positions, &keys, 2)?;
                all_values.scatter_set(&positions, &values, 2)?;
            }
        }
        let (keys, values) = (all_keys.narrow(2, 0, fresh.end())?, all_values.narrow(2, 0, fresh.end())?);
        let scores = product(&queries.contiguous()?, &keys.transpose(2, 3)?, DType::F32)?;
        let scores = (scores / (keys.dim(3)? as f64).sqrt())?;
        let scores = match fresh.bias(mask)? {
            Some(bias) => scores.broadcast_add(&bias)?,
            None => scores,
        };
        let mixed = product(&softmax_last_dim(&scores)?.to_dtype(qkv.dtype())?, &values, qkv.dtype())?;
        let mixed = merge_heads(&mixed)?.reshape((b * t, width / 3))?;
        let mixed = match &fresh.padding {
            Some((_, places)) => mixed.index_select(places, 0)?,
            None => mixed,
        };
        mixed.reshape((windows, window, width / 3))
    }

    /// Memory of at least `end` positions, for keys and values as in `like`.
    fn room(&mut self, like: &Tensor, end: usize) -> Result<(Tensor, Tensor)> {
        let (b, h, _, k) = like.dims4()?;
        let room = end.next_multiple_of(GROWTH);
        let (keys, values) = match self.0.take() {
            Some((keys, values)) => (grown(&keys, end, room)?, grown(&values, end, room)?),
            None => {
                let empty = || Tensor::zeros((b, h, room, k), like.dtype(), like.device());
                (empty()?, empty()?)
            }
        };
        self.0 = Some((keys.clone(), values.clone()));
        Ok((keys, values))
    }

    /// Keeps the sequences of the given numbers, in that order.
    pub(crate) fn keep(&mut self, rows: &[u32]) -> Result<()> {
        self.0 = match self.0.take() {
            Some((keys, values)) if !rows.is_empty() => {
                let rows = Tensor::new(rows, keys.device())?;
                Some((keys.index_select(&rows, 0)?, values.index_select(&rows, 0)?))
            }
            _ => None,
        };
        Ok(())
    }

    /// Takes out all sequences but the first `n`.
    pub(crate) fn split_off(&mut self, n: usize) -> Result<Self> {
        let Some((keys, values)) = self.0.take() else { return Ok(Self::default()) };
        let all = keys.dim(0)?;
        let part = |first: usize, count: usize| -> Result<Option<(Tensor, Tensor)>> {
            match count {
                0 => Ok(None),
                _ if count == all => Ok(Some((keys.clone(), values.clone()))),
                _ => Ok(Some((keys.narrow(0, first, count)?.copy()?, values.narrow(0, first, count)?.copy()?))),
            }
        };
        let taken = part(n, all - n)?;
        self.0 = part(0, n)?;
        Ok(Self(taken))
    }

    /// Adds the sequences of `other`. `n`, `more`: how many each has, though neither may have tokens yet.
    pub(crate) fn append(&mut self, other: Self, n: usize, more: usize) -> Result<()> {
        self.0 = match (self.0.take(), other.0) {
            (Some(held), Some(more)) => Some((together(&held.0, &more.0)?, together(&held.1, &more.1)?)),
            (Some((keys, values)), None) => {
                Some((keys.pad_with_zeros(0, 0, more)?, values.pad_with_zeros(0, 0, more)?))
            }
            (None, Some((keys, values))) => Some((keys.pad_with_zeros(0, n, 0)?, values.pad_with_zeros(0, n, 0)?)),
            (None, None) => None,
        };
        Ok(())
    }
}

/// `x`, `[B, H, R, K]`, with `room` for R where it has less than `end`.
fn grown(x: &Tensor, end: usize, room: usize) -> Result<Tensor> {
    let (_, _, r, _) = x.dims4()?;
    if r < end { x.pad_with_zeros(2, 0, room - r) } else { Ok(x.clone()) }
}

/// The sequences of `a`, then those of `b`.
fn together(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let room = a.dim(2)?.max(b.dim(2)?);
    Tensor::cat(&[grown(a, room, room)?, grown(b, room, room)?], 0)
}
