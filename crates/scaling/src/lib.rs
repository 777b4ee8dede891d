//! Scaling laws of a family of small models (Kaplan et al. 2020; Hoffmann et al. 2022).
//!
//! - [`config`]      the members, their text, their training
//! - `family`        trains them, each as a separate run
//! - [`points`]      which losses count: the frontier of compute
//! - [`law`]         L(N), L(D), L(C): power laws
//! - [`parametric`]  L(N, D), and the best size for a budget
//! - `descent`       how sums of powers are fitted
//! - [`noise`]       how sure a fit is
//! - [`report`]      all that was found; `tables` and `chart` show it
//!
//! Members are trained at equal tokens. Which losses can be compared with each other is decided by the learning rate: one
//! that decays over the whole run makes every loss before its end one of a run that is not over (Hoffmann et al. 2022,
//! §2). Here the rate stays at its highest for most of the run, so that losses along it are all of one kind, and falls at the
//! end, where a model is as good as it gets. L(D) and L(C) are fitted to losses of the first kind, L(N) to those of the second,
//! and L(N, D) to both, with one factor between them.

mod chart;
pub mod config;
mod descent;
mod family;
pub mod law;
pub mod noise;
pub mod parametric;
pub mod points;
pub mod report;
mod tables;

pub use config::ScalingConfig;
pub use report::ScalingReport;

use anyhow::{Context, Result};
use gptkit_data::disk::{self, Claim};
use gptkit_data::progress::Progress;

use family::FamilyOutcome;
use gptkit_train::RunContext;
use gptkit_train::interrupt::Stop;
use report::Member;
use std::path::{Path, PathBuf};

/// What a family leaves.
#[derive(Debug)]
pub enum ScalingOutcome {
    /// Every member is trained.
    Finished(Box<TrainedFamily>),
    /// A signal or the clock stopped it at this member.
    Stopped {
        /// What did.
        stop: Stop,
        /// The member's name.
        member: String,
    },
}

/// A family whose members are all trained.
#[derive(Debug)]
pub struct TrainedFamily {
    /// Where it is.
    pub folder: PathBuf,
    /// What it says.
    pub report: ScalingReport,
    /// That as tables.
    pub tables: String,
}

/// Puts the family of `config` into the folder of `claim`, whose path it returns; [`resume`] trains it.
///
/// # Errors
/// When it cannot be written.
pub fn begin(claim: Claim, config: &ScalingConfig, progress: &dyn Progress) -> Result<PathBuf> {
    let folder = claim.folder().to_owned();
    family::create(claim, &resolved(config)?)?;
    let sizes = config.family.sizes.len();
    progress.note(&format!("{sizes} sizes · {} each · to {}", config.train.length, folder.display()));
    Ok(folder)
}

/// Whether `folder` holds the family of `config`.
///
/// # Errors
/// When the configuration has no form in TOML.
pub fn is_of(folder: &Path, config: &ScalingConfig) -> Result<bool> {
    Ok(family::is_of(folder, &resolved(config)?))
}

fn resolved(config: &ScalingConfig) -> Result<String> {
    gptkit_config::resolved(config).context("the configuration cannot be written")
}

/// Trains the family of `config` in `folder`: members that are trained stay as they are, one that was interrupted goes on
/// from its checkpoint. The laws are fitted anew.
///
/// # Errors
/// When a member was made with other settings or on other text, or fails.
pub fn resume(
    config: &ScalingConfig,
    folder: &Path,
    budget: Option<f64>,
    context: &RunContext,
) -> Result<ScalingOutcome> {
    let trained = match family::train(config, folder, context)? {
        FamilyOutcome::Done(trained) => trained,
        FamilyOutcome::Stopped { stop, member } => return Ok(ScalingOutcome::Stopped { stop, member }),
    };
    let members: Vec<Member> =
        trained.iter().map(|member| Member::of(member, config.family.fit_from)).collect::<Result<_>>()?;
    let report = ScalingReport::new(members, config, budget);
    let write = |name: &str, text: String| disk::write(&folder.join(name), text.as_bytes());
    disk::write_json(&folder.join("scaling.json"), &report)?;
    write("scaling.md", tables::markdown(&report, &config.description))?;
    for (name, svg) in chart::all(&report) {
        write(name, svg)?;
    }
    let tables = tables::plain(&report);
    Ok(ScalingOutcome::Finished(Box::new(TrainedFamily { folder: folder.to_owned(), report, tables })))
}
