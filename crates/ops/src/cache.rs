//! What all layers keep of past tokens, so that each new token costs one token's work: keys and values, or an LSTM's states.

use crate::cpu::element::bf16;
use crate::past::Past;
use crate::past_head::PIECE;
use crate::path::Precision;
use crate::sequences::Sequences;
use crate::state_past::StatePast;
use crate::tensor_past::{GROWTH, TensorPast};
use candle_core::{Device, Result, bail};

/// The past of a batch of sequences of different lengths. As long as there are none, any batch may come.
#[derive(Debug)]
pub struct Cache {
    pub(crate) layers: LayerCaches,
    lens: Vec<usize>,
    context: usize,
}

#[derive(Debug)]
pub(crate) enum LayerCaches {
    F32(Vec<Past<f32>>),
    Bf16(Vec<Past<bf16>>),
    /// Of devices other than the CPU, and what products read there.
    Tensors(Vec<TensorPast>, Precision),
    /// Of recurrent layers, on any device.
    States(Vec<StatePast>),
}

impl Cache {
    /// None yet, of a model of `n_layer` layers, for at most `context` tokens of a sequence.
    pub fn new(n_layer: usize, context: usize, precision: Precision, device: &Device) -> Self {
        let layers = match (device, precision) {
            (Device::Cpu, Precision::F32) => LayerCaches::F32((0..n_layer).map(|_| Past::new()).collect()),
            (Device::Cpu, Precision::Bf16) => LayerCaches::Bf16((0..n_layer).map(|_| Past::new()).collect()),
            _ => return Self::of_tensors(n_layer, context, precision),
        };
        Self { layers, lens: Vec::new(), context }
    }

    /// [`Cache::new`] in candle's tensors on any device.
    pub fn of_tensors(n_layer: usize, context: usize, precision: Precision) -> Self {
        let layers = LayerCaches::Tensors((0..n_layer).map(|_| TensorPast::default()).collect(), precision);
        Self { layers, lens: Vec::new(), context }
    }

    /// The same of a model of `n_layer` recurrent layers.
    pub fn of_states(n_layer: usize, context: usize) -> Self {
        let layers = LayerCaches::States((0..n_layer).map(|_| StatePast::default()).collect());
        Self { layers, lens: Vec::new(), context }
    }

    /// Tokens for which memory is taken where a sequence holds `tokens`.
    pub fn room(tokens: usize, device: &Device) -> usize {
        tokens.next_multiple_of(if device.is_cpu() { PIECE } else { GROWTH })
    }

    /// Tokens held of each sequence.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Forgets all but the first `len` tokens of each sequence, and with the last of them the sequences.
    pub fn truncate(&mut self, len: usize) {
        if let LayerCaches::States(pasts) = &mut self.layers {
            pasts.iter_mut().for_each(|past| past.truncate(len, &self.lens));
        }
        self.lens.iter_mut().for_each(|held| *held = len.min(*held));
        match &mut self.layers {
            LayerCaches::F32(pasts) => pasts.iter_mut().for_each(|past| past.truncate(len)),
            LayerCaches::Bf16(pasts) => pasts.iter_mut().for_each(|past| past.truncate(len)),
            // What lies past the end of a sequence is written over before it is read.
            LayerCaches::Tensors(pasts, _) if len == 0 => pasts.fill_with(TensorPast::default),
            LayerCaches::Tensors(..) | LayerCaches::States(_) => {}
        }
        if len == 0 {
            self.lens.clear();
        }
    }

    /// Keeps only the sequences of the given numbers, in that order (a number may come twice).
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn keep(&mut self, rows: &[u32]) -> Result<()> {
        self.has(rows)?;
        self.lens = rows.iter().map(|&row| self.lens[row as usize]).collect();
        match &mut self.layers {
            LayerCaches::F32(pasts) => pasts.iter_mut().for_each(|past| past.keep(rows)),
            LayerCaches::Bf16(pasts) => pasts.iter_mut().for_each(|past| past.keep(rows)),
            LayerCaches::Tensors(pasts, _) => pasts.iter_mut().try_for_each(|past| past.keep(rows))?,
            LayerCaches::States(pasts) => pasts.iter_mut().for_each(|past| past.keep(rows)),
        }
        Ok(())
    }

    /// `n` sequences without tokens, instead of what is held.
    #[must_use]
    pub fn with_empty(mut self, n: usize) -> Self {
        self.truncate(0);
        self.lens = vec![0; n];
        match &mut self.layers {
            LayerCaches::F32(pasts) => pasts.iter_mut().for_each(|past| past.begin(n)),
            LayerCaches::Bf16(pasts) => pasts.iter_mut().for_each(|past| past.begin(n)),
            LayerCaches::Tensors(..) => {} // it takes the number from the first tokens
            LayerCaches::States(pasts) => pasts.iter_mut().for_each(|past| past.begin(n)),
        }
        self
    }

    /// Takes out the first sequence.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn take_first(&mut self) -> Result<Self> {
        let others = self.split_off(1)?;
        Ok(std::mem::replace(self, others))
    }

    /// Takes out all sequences but the first `n`.
    ///
    /// # Errors
    /// When memory does not suffice.
    pub fn split_off(&mut self, n: usize) -> Result<Self> {
        let n = n.min(self.lens.len());
        let layers = match &mut self.layers {
            LayerCaches::F32(pasts) => LayerCaches::F32(pasts.iter_mut().map(|past| past.split_off(n)).collect()),
            LayerCaches::Bf16(pasts) => LayerCaches::Bf16(pasts.iter_mut().map(|past| past.split_off(n)).collect()),
            LayerCaches::Tensors(pasts, precision) => {
                let pasts: Result<_> = pasts.iter_mut().map(|past| past.split_off(n)).collect();
                LayerCaches::Tensors(pasts?, *precision)
            }
            LayerCaches::States(pasts) => LayerCaches::States(pasts.iter_mut().map(|past| past.split_off(n)).collect()),
        };
        Ok(Self { layers, lens: self.lens.split_off(n), context: self.context })
    }

    /// Copies of the sequences of the given numbers, in that order (a number may come twice).
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn copies(&mut self, rows: &[u32]) -> Result<Self> {
        let all = self.lens.len();
        self.keep(&(0..all as u32).chain(rows.iter().copied()).collect::<Vec<_>>())?;
        self.split_off(all)
    }

    /// Adds the sequences of `other`, a cache of the same model.
    ///
    /// # Errors
    /// When it is of another model, or memory does not suffice.
    pub fn append(&mut self, other: Self) -> Result<()> {
        match (&mut self.layers, other.layers) {
            (LayerCaches::F32(pasts), LayerCaches::F32(others)) => {
                pasts.iter_mut().zip(others).for_each(|(past, other)| past.append(other));
            }
            (LayerCaches::Bf16(pasts), LayerCaches::Bf16(others)) => {
                pasts.iter_mut().zip(others).for_each(|(past, other)| past.append(other));
            }
            (LayerCaches::Tensors(pasts, _), LayerCaches::Tensors(others, _)) => {
                let (n, more) = (self.lens.len(), other.lens.len());
                pasts.iter_mut().zip(others).try_for_each(|(past, other)| past.append(other, n, more))?;
            }
            (LayerCaches::States(pasts), LayerCaches::States(others)) => {
                pasts.iter_mut().zip(others).for_each(|(past, other)| past.append(other));
            }
            _ => bail!("caches with a different precision, device or kind of model cannot be combined"),
        }
        self.lens.extend(other.lens);
        Ok(())
    }

    fn has(&self, rows: &[u32]) -> Result<()> {
        match rows.iter().find(|&&row| row as usize >= self.lens.len()) {
            Some(row) => bail!("a cache of {} sequences has no sequence {row}", self.lens.len()),
            None => Ok(()),
        }
    }

    /// Takes note of new tokens, `sequences`, one a row. Returns how many each row held before.
    ///
    /// # Errors
    /// When they are not of the rows that are held, or there is no place for them.
    pub(crate) fn count(&mut self, sequences: &Sequences) -> Result<Vec<usize>> {
        let mut lens = self.lens.clone();
        if lens.is_empty() {
            lens.resize(sequences.len(), 0);
        }
        if lens.len() != sequences.len() {
            bail!("a cache of {} sequences received tokens of {} sequences", lens.len(), sequences.len());
        }
        for (len, tokens) in lens.iter().zip(sequences.iter()) {
            if len + tokens.len() > self.context {
                bail!("a cache for {} tokens cannot hold {} more after {len}", self.context, tokens.len());
            }
        }
        self.lens = lens.iter().zip(sequences.iter()).map(|(len, tokens)| len + tokens.len()).collect();
        Ok(lens)
    }
}
