//! `gptkit world`

use crate::ui::Ui;
use clap::Args;
use data::world::World as Stories;

/// Print stories of the embedded world, the default text of every stage
#[derive(Debug, Args)]
pub(crate) struct World {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 3)]
    stories: u64,
    /// Same seed, same stories
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object a story: text, the world's state behind it, questions with answers
    #[arg(long)]
    json: bool,
}

impl World {
    pub(crate) fn run(self, ui: &Ui) -> anyhow::Result<()> {
        let stories = Stories::new(self.seed);
        for index in 0..self.stories {
            let story = stories.story(index);
            let text = if self.json { serde_json::to_string(&story)? } else { format!("{}\n", story.text) };
            ui.result(&(text + "\n"))?;
        }
        Ok(())
    }
}
