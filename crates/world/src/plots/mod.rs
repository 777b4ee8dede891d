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
pub enum Plot {
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

impl Plot {
    /// All of them.
    pub const ALL: [Plot; 13] = [
        Plot::Birthday,
        Plot::Borrowed,
        Plot::Cake,
        Plot::Harvest,
        Plot::Journey,
        Plot::Lost,
        Plot::Night,
        Plot::Quarrel,
        Plot::Race,
        Plot::Secret,
        Plot::Storm,
        Plot::Trade,
        Plot::Trouble,
    ];

    /// Tells a story of this kind, and names it.
    pub(super) fn tell(self, teller: &mut Teller<'_>) -> String {
        match self {
            Plot::Birthday => birthday::tell(teller),
            Plot::Borrowed => borrowed::tell(teller),
            Plot::Cake => cake::tell(teller),
            Plot::Harvest => harvest::tell(teller),
            Plot::Journey => journey::tell(teller),
            Plot::Lost => lost::tell(teller),
            Plot::Night => night::tell(teller),
            Plot::Quarrel => quarrel::tell(teller),
            Plot::Race => race::tell(teller),
            Plot::Secret => secret::tell(teller),
            Plot::Storm => storm::tell(teller),
            Plot::Trade => trade::tell(teller),
            Plot::Trouble => trouble::tell(teller),
        }
    }
}
