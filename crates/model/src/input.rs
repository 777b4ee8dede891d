//! Tokens as a model reads them: windows, or sequences end to end.

use candle_core::{Device, Result, Tensor, bail};
use gptkit_ops::Sequences;
use std::sync::Arc;

/// Tokens as a model reads them.
#[derive(Debug, Clone)]
pub struct Input {
    /// `[B, T]`, u32.
    pub tokens: Tensor,
    /// What they belong to.
    pub sequences: Arc<Sequences>,
}

impl Input {
    /// `tokens`: `[B, T]`, each window one sequence.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn windows(tokens: &Tensor) -> Result<Self> {
        let (b, t) = tokens.dims2()?;
        Ok(Self { tokens: tokens.clone(), sequences: Arc::new(Sequences::windows(b, t)) })
    }

    /// Sequences of any lengths end to end, without padding, as one window.
    ///
    /// # Errors
    /// When one is empty, or there is none.
    pub fn ragged<'a>(sequences: impl IntoIterator<Item = &'a [u32]>, device: &Device) -> Result<Self> {
        let (mut tokens, mut starts) = (Vec::<u32>::new(), Vec::new());
        for sequence in sequences {
            starts.push(tokens.len() as u32);
            tokens.extend(sequence);
        }
        let sequences = Sequences::packed(tokens.len(), [&*starts])?;
        Self::window(tokens, sequences, device)
    }

    /// Groups of sequences that share their first `stem` tokens, as one window without padding: of each group the stem is
    /// read once, then what each goes on with, in their order.
    ///
    /// # Errors
    /// When a sequence is not longer than its stem, or there is none.
    pub fn branching<'a, S: AsRef<[u32]> + 'a>(
        groups: impl IntoIterator<Item = (usize, &'a [S])>,
        device: &Device,
    ) -> Result<Self> {
        let (mut tokens, mut shapes) = (Vec::<u32>::new(), Vec::new());
        for (stem, group) in groups {
            for (i, sequence) in group.iter().enumerate() {
                let sequence = sequence.as_ref();
                if sequence.len() <= stem {
                    bail!(
                        "a sequence of {} tokens must be longer than the prefix of {stem} tokens that its group shares",
                        sequence.len()
                    );
                }
                tokens.extend(&sequence[if i == 0 { 0 } else { stem }..]);
            }
            shapes.push((stem, group.iter().map(|sequence| sequence.as_ref().len() - stem).collect::<Vec<_>>()));
        }
        let sequences = Sequences::branching(shapes.iter().map(|(stem, lengths)| (*stem, lengths.as_slice())))?;
        Self::window(tokens, sequences, device)
    }

    fn window(tokens: Vec<u32>, sequences: Sequences, device: &Device) -> Result<Self> {
        let t = tokens.len();
        Ok(Self { tokens: Tensor::from_vec(tokens, (1, t), device)?, sequences: Arc::new(sequences) })
    }
}
