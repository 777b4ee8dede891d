//! The endpoints.
//!
//! - [`body`]         bytes → fields
//! - [`sampling`]     the fields that say how tokens are chosen
//! - [`request`]      fields → a job of the engine
//! - [`answer`]       events of the engine → an answer, whole or streamed
//! - [`chat`], [`completions`]  OpenAI's two endpoints
//! - [`scoring`]      rewards
//! - [`tokens`]       tokenizer and template
//! - [`models`]       what is served; [`training`] what it was trained on
//! - [`feedback`]       what people think of answers; [`kept`] answers that are stored; [`storing`] the store
//! - [`error`]        refusals

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod error;
pub(crate) mod feedback;
pub(crate) mod kept;
pub(crate) mod models;
pub(crate) mod request;
pub(crate) mod sampling;
pub(crate) mod scoring;
pub(crate) mod storing;
pub(crate) mod tokens;
pub(crate) mod training;
