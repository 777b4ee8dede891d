//! The embedded corpus: English stories from a small simulated world, any number of them, from a seed.
//!
//! - [`state`]     who is where and holds what; events, and what must hold for them to happen
//! - [`map`]       roads between the sites
//! - [`teller`]    an event and its sentence, always together
//! - [`cast`]      who and what takes part
//! - [`grammar`]   templates with slots into sentences
//! - [`events`]    events that many stories share
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
//! - [`small_talk`]   greetings, and what a small model cannot do
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

mod cast;
mod comparisons;
mod events;
mod gold;
mod grader;
mod grammar;
mod instructions;
mod labelers;
mod manners;
mod map;
mod part;
mod passage;
mod patterns;
mod plight;
mod plots;
mod questions;
mod rule;
mod small_talk;
mod state;
mod story;
mod tasks;
mod teller;
mod words;

pub use comparisons::{Comparisons, Concordance, RankedAnswers, concordance};
pub use instructions::{Instruction, InstructionKind, Instructions};
pub use labelers::Labeler;
pub use manners::Manners;
pub use part::WorldPart;
pub use patterns::{PatternRecords, Patterns};
pub use plots::StoryPlot;
pub use questions::{QuestionKind, StoryQuestion};
pub use rule::{PatternKind, PatternRecord};
pub use state::{Feeling, Lies, Person, Scene, ScenePlace, StoryEvent, StoryState, Thing};
pub use story::{Story, World};
pub use tasks::{LabeledRecord, LabeledRecords, LabeledTask};

#[cfg(test)]
mod tests;
