//! Text → documents → tokens → batches; plain integers, no tensors.
//!
//! - [`source`]    files, folders, columns of records, gzip, zstd, stdin, the embedded world → documents that know their file and line
//! - [`record`]    JSON, JSONL, CSV, TSV, Parquet → rows that know their file and line
//! - [`unused`]    fields of records that are not used although they may matter
//! - [`dialogue`]  instruction records of the usual shapes → messages of user and assistant
//! - [`comparison`] comparison records → prompts, completions and their places
//! - [`prompt`]    records of any of these shapes, and lines of text → what is to be answered
//! - [`split`]     training or held out
//! - [`task`]      kinds of labeled tasks
//! - [`synthetic`] stories, records and labelers of the embedded world
//! - [`tokenizer`] load, train, encode, decode
//! - [`decoder`]   token ids, one at a time → text
//! - [`stitch`]    documents in pieces → the tokens of the whole
//! - [`losses`]    characters that a vocabulary has no token for
//! - [`jinja`]     the engine for templates that nobody vouches for
//! - [`template`]  messages → text, and which parts of it the assistant says
//! - [`form`]      messages → tokens, by a model's template or as plain text
//! - [`shard`]     token files with a manifest
//! - [`prepare`]   documents → shards, once
//! - [`batch`]     the next windows from (seed, row) alone; read ahead
//! - [`examples`]  lists of numbers, one an example
//! - [`pack`]      examples → windows with few empty tokens
//! - [`printable`] text from elsewhere without control sequences
//! - [`text_table`] tables, for the terminal and in Markdown
//! - [`adapter`]   folders of adapters → their base, and whose tokenizer they have
//! - [`pattern`]   regular expressions of other people's files
//! - [`disk`]      the only writer: what it writes is whole or absent
//! - [`progress`]  what long work reports to
//! - [`quiet`]     panics of other libraries, as errors
//! - [`unfinished`] what is removed when a signal ends the process

pub mod adapter;
pub mod batch;
pub mod comparison;
pub mod decoder;
pub mod dialogue;
pub mod disk;
mod encoding;
pub mod examples;
mod folder_tokens;
pub mod form;
pub mod jinja;
mod json;
pub mod losses;
mod mapped;
mod messages;
mod outline;
pub mod pack;
pub mod pattern;
pub mod prepare;
pub mod printable;
pub mod progress;
pub mod prompt;
mod python;
mod python_methods;
pub mod quiet;
pub mod record;
mod remarks;
pub mod shard;
pub mod source;
pub mod sources;
pub mod split;
pub mod stitch;
pub mod synthetic;
pub mod task;
pub mod template;
#[cfg(test)]
mod testing;
mod text;
pub mod text_table;
pub mod tokenizer;
pub mod unfinished;
pub mod unused;
