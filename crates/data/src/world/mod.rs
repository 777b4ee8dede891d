//! The embedded corpus: English stories from a small simulated world, any number of them, from a seed.
//!
//! - [`state`]     who is where and holds what; events, and what must hold for them to happen
//! - [`teller`]    an event and its sentence, always together
//! - [`plots`]     thirteen kinds of story
//! - [`questions`] what can be asked about a story, with the answer
//! - [`grader`]    whether a reply is right
//! - [`words`]     the vocabulary

mod grader;
mod plots;
mod questions;
mod state;
mod story;
mod teller;
mod words;

pub use plots::Plot;
pub use questions::{Kind, Question};
pub use state::{Event, Feeling, Lies, Person, Place, Scene, State, Thing};
pub use story::{Story, World};

#[cfg(test)]
mod tests;
