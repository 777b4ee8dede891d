//! Every random draw of the workspace. Nothing has state that must be saved: a draw is a pure function of a seed, of its
//! purpose and of a number, so that a resumed run draws what it would have drawn, on any number of threads.
//!
//! - [`keyed`] numbers for tensors, one for each element (Philox): initial weights, dropout, sampled tokens, masks
//! - [`dice`]  draws in sequence (ChaCha8): the procedural corpus, few-shot examples, resampling
//! - [`order`] the order of examples in an epoch (a keyed permutation), and the hash behind it

pub mod dice;
pub mod keyed;
pub mod order;

pub use dice::{CorpusDraw, Dice};
pub use keyed::{Draw, Key};
