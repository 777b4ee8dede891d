//! What distinguishes the training commands in the code that they share.

use gptkit_train::learning_rates::Purpose;

/// Names of a stage on the command line and in a run folder.
pub(crate) struct StageNames {
    /// The subcommand.
    pub(crate) command: &'static str,
    /// The preset that is used where none is named.
    pub(crate) preset: &'static str,
    /// Section of the records, and the file below a run that keeps them; none where the run reads text.
    pub(crate) records: Option<(&'static str, &'static str)>,
    /// Further settings whose files may be gone.
    pub(crate) gone: &'static [&'static str],
    /// Purpose of training a pretrained model, by which its default learning rate is chosen.
    pub(crate) purpose: Purpose,
    /// Section of the pretraining text that may be mixed in.
    pub(crate) mixed: Option<&'static str>,
}
