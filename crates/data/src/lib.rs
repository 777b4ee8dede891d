//! Text → documents → tokens → batches; plain integers, no tensors.
//!
//! - [`source`]    files, folders, columns of records, gzip, zstd, stdin, the embedded world → documents that know their file and line
//! - [`rows`]      JSON, JSONL, CSV, TSV, Parquet → rows that know their file and line
//! - [`record`]    a row: its fields, its place, what may be wrong with it
//! - [`skipped`]   records that are left out, and why
//! - [`unused`]    fields of records that are not used although they may matter
//! - [`dialogue`]  instruction records of the usual shapes → messages of user and assistant
//! - [`comparison`] comparison records → prompts, completions and their places
//! - [`prompt`]    records of any of these shapes, and lines of text → what is to be answered
//! - [`split`]     training or held out
//! - [`task`]      kinds of labeled tasks
//! - [`synthetic`] stories, records and labelers of the embedded world
//! - [`tokenizer`] load, train, encode, decode
//! - [`decoder`]   token ids, one at a time → text
//! - [`text`]      bytes → documents in pieces
//! - [`stitch`]    documents in pieces → the tokens of the whole
//! - [`losses`]    characters that a vocabulary has no token for
//! - [`jinja`]     the engine for templates that nobody vouches for
//! - [`template`]  messages → text, and which parts of it the assistant says
//! - [`form`]      messages → tokens, by a model's template or as plain text
//! - [`shard`]     token files with a manifest
//! - [`encode`]    documents → tokens in shard files
//! - [`prepare`]   documents → shards, once
//! - [`batch`]     the next windows from (seed, row) alone; read ahead
//! - [`examples`]  lists of numbers, one an example
//! - [`pack`]      examples → windows with few empty tokens
//! - [`printable`] text from elsewhere without control sequences
//! - [`text_table`] tables, for the terminal and in Markdown
//! - [`adapter`]   folders of adapters → their base, and whose tokenizer they have
//! - [`pattern`]   regular expressions of other people's files
//! - [`disk`]      the only writer: what it writes is whole or absent
//! - [`mod@format`] durations and amounts of memory, for people to read
//! - [`progress`]  what long work reports to
//! - [`quiet`]     panics of other libraries, as errors
//! - [`unfinished`] what is removed when a signal ends the process

pub mod adapter;
pub mod batch;
mod cache;
pub mod comparison;
mod continuation;
pub mod decoder;
pub mod dialogue;
pub mod disk;
pub mod encode;
mod encoding;
pub mod examples;
mod file_form;
mod folder_tokens;
pub mod form;
pub mod format;
mod inputs;
pub mod jinja;
mod jinja_failure;
mod jinja_fuel;
mod json;
mod lines;
pub mod losses;
mod mapped;
mod message;
mod messages;
mod open;
mod outline;
pub mod pack;
mod parquet_rows;
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
pub mod rows;
mod segments;
pub mod shard;
pub mod skipped;
pub mod source;
pub mod sources;
pub mod split;
pub mod stitch;
pub mod synthetic;
mod table;
pub mod task;
pub mod template;
#[cfg(test)]
mod testing;
pub mod text;
pub mod text_table;
pub mod tokenizer;
pub mod unfinished;
pub mod unused;
