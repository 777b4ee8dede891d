//! The whole story, from raw text to a chatbot, as stages that are commands (the preset `lineage`).
//!
//! 1. [`config`]    which stages there are: names, chapters, commands
//! 2. [`own`]       the user's own data, which replaces that of the built-in world
//! 3. [`plan`]      names in commands → folders and files: what a stage runs, reads and leaves
//! 4. [`stages`]    in order: finished stages are skipped, interrupted ones are resumed; each is a process ([`child`]) that
//!    reports its progress ([`event`])
//! 5. [`story`]     the stages of every seed, two at a time ([`schedule`]), with the time that they take
//! 6. [`measured`]  what the stages of each seed have left: every figure, as data
//!    with pieces of the data itself ([`excerpt_data`], read by [`excerpts`])
//! 7. [`rules`]     the papers' findings as rules on those figures, each a [`shape`]
//! 8. [`summary`]   one table of stages and figures
//! 9. [`report`]    the page that explains all of it, with its [`figures`], and the same data as JSON and CSV

mod child;
pub mod config;
pub mod event;
#[cfg(test)]
mod example;
pub mod excerpt_data;
mod excerpts;
pub mod figures;
pub mod measured;
pub mod own;
pub mod plan;
mod pretty;
mod reading;
pub mod report;
pub mod rules;
mod schedule;
pub mod shape;
pub mod stages;
pub mod story;
pub mod summary;
mod together;
mod work;
pub use config::LineageConfig;
pub use own::OwnData;
