//! The plots: what the cast wants, what comes in between, and how it ends. Each draws its course from the scene and tells
//! it through a [`Teller`]; the result is the title.

mod birthday;
mod borrowed;
mod cake;
mod harvest;
mod journey;
mod lost;
mod night;
mod quarrel;
mod race;
mod secret;
mod storm;
mod trade;
mod trouble;

use serde::Serialize;

use super::teller::Teller;

/// What kind of story it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoryPlot {
    /// Everybody seems to have forgotten a birthday.
    Birthday,
    /// Something borrowed breaks, and the truth comes out.
    Borrowed,
    /// A cake needs things from here and there.
    Cake,
    /// Seeds grow, and what grows is shared.
    Harvest,
    /// Something has to be carried a long way.
    Journey,
    /// A thing is lost, and found again.
    Lost,
    /// A noise in the dark.
    Night,
    /// Two friends fall out, and make up.
    Quarrel,
    /// Who is first?
    Race,
    /// Something is hidden, and notes lead to it.
    Secret,
    /// A storm takes something away.
    Storm,
    /// Things change hands until all have what they want.
    Trade,
    /// Somebody is stuck.
    Trouble,
}

impl StoryPlot {
    /// All of them.
    pub const ALL: [StoryPlot; 13] = [
        StoryPlot::Birthday,
        StoryPlot::Borrowed,
        StoryPlot::Cake,
        StoryPlot::Harvest,
        StoryPlot::Journey,
        StoryPlot::Lost,
        StoryPlot::Night,
        StoryPlot::Quarrel,
        StoryPlot::Race,
        StoryPlot::Secret,
        StoryPlot::Storm,
        StoryPlot::Trade,
        StoryPlot::Trouble,
    ];

    /// Tells a story of this kind, and names it.
    pub(super) fn tell(self, teller: &mut Teller<'_>) -> String {
        match self {
            StoryPlot::Birthday => birthday::tell(teller),
            StoryPlot::Borrowed => borrowed::tell(teller),
            StoryPlot::Cake => cake::tell(teller),
            StoryPlot::Harvest => harvest::tell(teller),
            StoryPlot::Journey => journey::tell(teller),
            StoryPlot::Lost => lost::tell(teller),
            StoryPlot::Night => night::tell(teller),
            StoryPlot::Quarrel => quarrel::tell(teller),
            StoryPlot::Race => race::tell(teller),
            StoryPlot::Secret => secret::tell(teller),
            StoryPlot::Storm => storm::tell(teller),
            StoryPlot::Trade => trade::tell(teller),
            StoryPlot::Trouble => trouble::tell(teller),
        }
    }
}
