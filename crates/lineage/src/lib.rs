//! The whole story, from raw text to a chatbot, as stages that are commands (configs/lineage.toml).
//!
//! 1. [`config`]    which stages there are: names, chapters, commands
//! 2. [`own`]       the user's own data in the place of the embedded world's
//! 3. [`plan`]      names in commands → folders and files: what a stage runs, reads and leaves
//! 4. [`stages`]    in order: what is done is left alone, what was interrupted goes on; each is a process ([`child`]) that
//!    tells of itself ([`event`])

mod child;
pub mod config;
pub mod event;
pub mod own;
pub mod plan;
pub mod stages;

pub use config::LineageConfig;
pub use own::Own;
