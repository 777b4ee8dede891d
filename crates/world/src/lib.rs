//! The embedded corpus: English stories from a small simulated world, any number of them, from a seed.
//!
//! - [`state`]     who is where and holds what; events, and what must hold for them to happen
//! - [`teller`]    an event and its sentence, always together
//! - [`plots`]     thirteen kinds of story
//! - [`questions`] what can be asked about a story, with the answer
//! - [`grader`]    whether a reply is right
//! - [`words`]     the vocabulary
//!
//! From the same world, for the stages after pretraining, in a few sentences each:
//!
//! - [`passage`]      two or three facts, and questions about them, told or not
//! - [`plight`]       short courses of events, each with the sentence that must follow
//! - [`instructions`] prompts with answers that can be graded
//! - [`manners`]      courtesy around an answer
//! - [`gold`]         the hidden scorer: what a reply is truly worth
//! - [`labelers`]     simulated people who rank replies by it, noisily
//! - [`comparisons`]  prompts with several answers, good and bad, that a labeler ranked
//! - [`tasks`]        labeled records
//!
//! To learn from examples in the context, beside the stories:
//!
//! - [`rule`]         what leads from an input of a few words to an output
//! - [`patterns`]     documents of such examples, and records to ask with
//!
//! And for all of them:
//!
//! - [`part`]         what is for training and what is held out

mod comparisons;
mod gold;
mod grader;
mod instructions;
mod labelers;
mod manners;
mod part;
mod passage;
mod patterns;
mod plight;
mod plots;
mod questions;
mod rule;
mod state;
mod story;
mod tasks;
mod teller;
mod words;

pub use comparisons::{Comparison, Comparisons, Concordance, concordance};
pub use instructions::{Instruction, InstructionKind, Instructions};
pub use labelers::Labeler;
pub use manners::Manners;
pub use part::Part;
pub use patterns::{PatternRecords, Patterns};
pub use plots::Plot;
pub use questions::{Kind, Question};
pub use rule::{Pattern, PatternRecord};
pub use state::{Event, Feeling, Lies, Person, Place, Scene, State, Thing};
pub use story::{Story, World};
pub use tasks::{Record, Task, Tasks};

#[cfg(test)]
mod tests;
