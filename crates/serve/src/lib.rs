//! An OpenAI-compatible HTTP server. The same weights, prompt, sampling settings and seed give the same answer, whatever else
//! the server does meanwhile.
//!
//! 1. [`http`]    connections, routes
//! 2. [`settings`] limits; [`guard`] who may ask
//! 3. [`api`]     fields → a job, events → an answer, or an error
//! 4. [`engine`]  one thread that owns the models and works on all jobs together
//! 5. [`models`]  what is served
//! 6. [`page`]     the web page
//! 7. [`metrics`] counters; [`openapi`] the description of all endpoints; [`mod@bench`] cases of `gptkit bench`; [`fuzzing`] bodies
//!    from a fuzzer

mod api;
mod app;
pub mod bench;
mod engine;
pub mod fuzzing;
mod guard;
pub mod http;
mod metrics;
pub mod models;
mod openapi;
mod page;
pub mod settings;

pub use engine::EngineLimits;
pub use engine::queue::QueueLimits;
pub use http::{Server, stop_signal};
pub use models::{Served, ServedModel, ServedScorer, named_folder};
pub use settings::{ApiKey, ServerLimits, ServerSettings};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
