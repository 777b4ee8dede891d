//! The whole story, from raw text to a chatbot, as stages that are commands (configs/lineage.toml).
//!
//! 1. [`config`]    which stages there are: names, chapters, commands
//! 2. [`measured`]  what the stages of each seed have left: every figure, as data
//! 3. [`shapes`]    what the papers found, as rules on those figures
//! 4. [`report`]    the page that tells all of it, with its [`figures`], each a [`mod@chart`]

pub mod chart;
pub mod config;
#[cfg(test)]
mod example;
pub mod figures;
pub mod measured;
mod pretty;
mod reading;
pub mod report;
mod rules;
pub mod shapes;
mod work;

pub use config::LineageConfig;
