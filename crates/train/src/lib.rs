//! The machinery that every stage trains with, and the first stage.
//!
//! - [`config`]    what a user may set of training
//! - [`span`]      lengths as people write them: steps, tokens, epochs
//! - [`schedule`]  learning rate and batch size over tokens
//! - [`optimizer`] AdamW and Muon by parameter name
//! - [`ema`]       a moving average of what is trained
//! - [`run`]       the folder of a run: resolved config, metrics, model
//! - [`model_used`] a model folder that a run depends on
//! - [`request`]   what a run was started with, and what is in its folder
//! - [`resume`]    resuming a run, and the settings that may be edited before
//! - [`checkpoint`] everything that a run needs to resume, written atomically
//! - [`interrupt`] signals and `--max-time`
//! - [`guard`]     losses and gradients that are no numbers, losses that leap
//! - [`curves`]    what a run recorded, by metric; [`metric_charts`] draws it, `events` writes it for TensorBoard
//! - [`objective`] what a stage trains for
//! - [`language_modeling`] the objective of language models
//! - [`masked`]    the masked prediction task
//! - [`stage`]     a stage as every stage is run: new, resumed, reported
//! - [`fit`]       the loop: steps, validations, checkpoints, interrupts
//! - [`training_data`] the data that the loop reads
//! - [`learning_rates`] rates for models that were trained before
//! - [`learner`]   what the loop trains; [`trainer`] makes one update of it
//! - [`state`]     how far a run is
//! - [`context`]   what a command gives to its stage: device, output, deadline
//! - [`start`]     the model folder that a stage starts from
//! - [`metrics`]   the records of a run
//! - [`samples`]   what the model writes at each validation
//! - [`overview`]  the runs of a folder at a glance
//! - [`memory`]    what a step holds, by part
//! - [`machine`]   what the machine has
//! - [`model_card`] a run, described for the people who download its model
//! - [`plan`]      memory and time before they are spent
//! - [`mod@bench`] a step, reading and decoding, to be timed
//! - [`mod@pretrain`]  the stage: raw text → language model

pub mod bench;
pub mod checkpoint;
pub mod checkpoint_folders;
pub mod config;
pub mod context;
pub mod curves;
pub mod ema;
mod events;
mod exchange;
pub mod fit;
mod gradient_sums;
pub mod guard;
pub mod interrupt;
pub mod language_modeling;
pub mod learner;
pub mod learning_rates;
pub mod machine;
pub mod masked;
pub mod memory;
pub mod metric_charts;
pub mod metrics;
pub mod model_card;
pub mod model_used;
pub mod objective;
pub mod optimizer;
pub mod overview;
pub mod plan;
pub mod pretrain;
pub mod request;
pub mod resume;
pub mod run;
pub mod samples;
pub mod schedule;
pub mod sharing;
pub mod span;
pub mod stage;
pub mod start;
pub mod state;
mod stop_notice;
pub mod trainer;
pub mod training_data;

pub use context::RunContext;
pub use pretrain::{PretrainConfig, Pretraining};
pub use resume::Resumable;
pub use span::Span;
