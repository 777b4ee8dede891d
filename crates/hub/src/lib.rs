//! Models and data sets of a Hugging Face hub, in the cache that `huggingface_hub` uses.
//!
//! - [`name`]     `NAME@REVISION`, as a command line names a repository
//! - [`settings`] what the environment says: address, cache, token, offline
//! - [`client`]   requests: the token, redirects, repetitions, and what refusals mean
//! - [`listing`]  the files of a revision
//! - [`choice`]   which of them a GPT needs
//! - [`cache`]    the folders of `huggingface_hub`
//! - [`download`] one file: resumed, checked
//! - [`hub`]      a model, a file of a data set, from the hub or the cache
//! - [`push`]     a folder → a commit on the hub

pub mod cache;
pub mod choice;
mod client;
mod download;
pub mod hub;
mod listing;
pub mod name;
pub mod push;
pub mod settings;
#[cfg(test)]
mod tests;

pub use hub::Hub;
pub use listing::{Listing, RemoteFile};
pub use name::{HubName, RepositoryKind};
pub use settings::HubSettings;
