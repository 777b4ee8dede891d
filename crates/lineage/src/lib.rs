//! The whole story, from raw text to a chatbot, as stages that are commands (configs/lineage.toml).
//!
//! 1. [`config`]    which stages there are: names, chapters, commands

pub mod config;

pub use config::LineageConfig;
