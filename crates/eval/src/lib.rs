//! What a language model can do, asked as GPT-2's and GPT-3's papers ask it: without examples, or with a few in its context
//! (Radford et al. 2019, §3; Brown et al. 2020, §2.4).

pub mod scaling;

pub use scaling::ScalingConfig;
