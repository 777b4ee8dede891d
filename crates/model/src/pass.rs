//! What a forward pass is for.

use gptkit_ops::{Dropout, SaveForBackward};
use gptkit_rng::keyed::{Draw, Key, words};

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Its result alone: no dropout, no graph.
    Eval,
    /// Gradients: dropout acts, with masks that belong to the rows of the run.
    Train {
        /// Seed of the run.
        seed: u64,
        /// Number of the batch's first row among all rows of the run.
        first_row: u64,
        /// Whether blocks are run again in the backward pass instead of keeping what it reads.
        recompute: bool,
    },
}

impl Pass {
    /// Dropout of probability `p` at place `site`, if there is any.
    pub(crate) fn dropout(self, p: f64, site: u32) -> Option<Dropout> {
        match self {
            Self::Train { seed, first_row, .. } if p > 0.0 => Some(Dropout { p: p as f32, seed, site, first_row }),
            _ => None,
        }
    }

    /// The same with dropout of its own for each part of a batch, for [`crate::Input::ragged`] and [`crate::Input::branching`]: end to end,
    /// sequences have no rows by which their masks could be told apart.
    pub fn of_part(self) -> Self {
        match self {
            Self::Eval => self,
            Self::Train { seed, first_row, recompute } => {
                let [a, b, ..] = words(Key { seed, draw: Draw::Dropout { site: u32::MAX - 1 } }, first_row);
                Self::Train { seed: u64::from(a) << 32 | u64::from(b), first_row: 0, recompute }
            }
        }
    }

    /// Whether gradients are taken.
    pub(crate) fn trains(self) -> bool {
        matches!(self, Self::Train { .. })
    }

    /// What blocks save for their backward pass.
    pub(crate) fn saves(self) -> SaveForBackward {
        match self {
            Self::Eval => SaveForBackward::Nothing,
            Self::Train { recompute: true, .. } => SaveForBackward::Inputs,
            Self::Train { recompute: false, .. } => SaveForBackward::All,
        }
    }
}
