//! Conversations with a model, without a terminal: a program that shows them in another way uses the same engine.
//!
//! - [`conversation`]  the turns so far, and the most recent ones that fit into the context
//! - [`session`]       a model and a conversation: question → prompt → answer, streamed; another answer to the last question
//! - [`server`]        a model that a server makes available, in the place of one that is loaded

pub mod conversation;
pub mod server;
pub mod session;

pub use conversation::{Conversation, Turn};
pub use server::ModelServer;
pub use session::{ChatAnswer, ChatConfig, ChatPrompt, ChatSession};
