//! Evaluation of language models as in the papers of GPT-2 and GPT-3: zero-shot, or with a few examples in the context
//! (Radford et al. 2019, §3; Brown et al. 2020, §2.4).
//!
//! - [`catalog`]    the built-in tasks, and how tasks are named
//! - [`task`]       a task file, and its templates
//! - [`records`]    where its records come from
//! - [`arithmetic`], [`scramble`] GPT-3's synthetic tasks
//! - [`instance`]   a record → a prompt and the correct answer
//! - [`shots`]      few-shot examples that fit in the context; prompts as tokens
//! - [`score`]      instances → results of a model
//! - [`answers`], [`bleu`], [`rouge`] answers compared with the correct ones
//! - [`perplexity`] how likely a text is, through a sliding window
//! - [`overlap`]    which instances a model may have seen
//! - [`figures`]    figures with their standard errors
//! - [`request`]    what an evaluation measures
//! - [`run`]        models × tasks × numbers of demonstrations, resumable
//! - [`report`], [`chart`] tables and pictures

pub mod answers;
pub mod arithmetic;
pub mod bleu;
pub mod catalog;
pub mod chart;
mod detokenize;
pub mod figures;
pub mod instance;
mod open_task;
pub mod overlap;
pub mod perplexity;
pub mod records;
pub mod report;
pub mod request;
pub mod rouge;
pub mod run;
pub mod score;
pub mod scramble;
pub mod shots;
mod stop_words;
pub mod task;
mod template;
