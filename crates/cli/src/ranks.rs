//! The ranks that `mpirun` or `srun` started, and the message with which the first one shares a run.

use crate::env;
use crate::ui::Usage;
use anyhow::{Context, Result};
use gptkit_ranks::Ranks;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The commands that several ranks can run together.
const SHARED: [&str; 10] =
    ["pretrain", "finetune", "sft", "train-rm", "dpo", "ppo", "eval", "score", "rank", "win-rates"];

/// Connects this process with the other ranks, if it was started with others, to run the subcommand `command`.
///
/// # Errors
/// When this gptkit was built without MPI, the ranks cannot be connected, or they cannot run the command together.
pub(crate) fn connected(command: Option<&str>) -> Result<Ranks> {
    if env::started_ranks().is_none_or(|n| n < 2) {
        return Ok(Ranks::default());
    }
    if let Some(command) = command.filter(|command| !SHARED.contains(command)) {
        let what = format!("`gptkit {command}` runs in one process, but several were started");
        let hint = format!("start it without mpirun; ranks share out {}", SHARED.join(", "));
        return Err(Usage::new(what).hint(hint).into());
    }
    connect()
}

#[cfg(feature = "mpi")]
fn connect() -> Result<Ranks> {
    gptkit_ranks::mpi_ranks(env::rank_limit()?, |what| crate::stderr::write_line(&format!("error: {what}")))
}

#[cfg(not(feature = "mpi"))]
fn connect() -> Result<Ranks> {
    let hint = "build it with `cargo build --release --features mpi`, or start it without mpirun";
    Err(Usage::new("several processes were started, but this gptkit was built without MPI").hint(hint).into())
}

/// A message from the first rank to the others: the run that it begins or resumes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunToShare {
    /// The absolute path of its folder, which all ranks can read.
    pub(crate) folder: PathBuf,
    /// Whether it begins; the folder of a training then has `run.json`.
    pub(crate) begins: bool,
}

impl RunToShare {
    /// Tells the other ranks.
    ///
    /// # Errors
    /// When one has ended or does not answer.
    pub(crate) fn tell(&self, ranks: &Ranks) -> Result<()> {
        ranks.gather(&serde_json::to_vec(self)?).map(drop)
    }

    /// Receives the message of the first rank.
    ///
    /// # Errors
    /// When it has ended or does not answer.
    pub(crate) fn heard(ranks: &Ranks) -> Result<Self> {
        let told = ranks.gather(&[])?;
        serde_json::from_slice(&told[0]).context("the ranks are of different versions of gptkit")
    }
}
