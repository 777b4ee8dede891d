//! What the stages ask of the places that their records come from.

use ::config::Problems;
use data::source::Place;
use data::world::Part;

/// Where records come from, as a stage's `[data]` says it.
pub struct Sources<'a> {
    /// Files of records, or the world's.
    pub sources: &'a [String],
    /// The same, to validate on.
    pub validation: &'a [String],
    /// Share of the sources that is validated on when `validation` is empty.
    pub val_fraction: f64,
}

impl Sources<'_> {
    /// Whether record `n` of a source is for validation: the world says itself, of a file every so many-eth is.
    pub fn holds_out(&self, n: u64, part: Option<Part>) -> bool {
        let every = if self.val_fraction > 0.0 { (1.0 / self.val_fraction).round() as u64 } else { u64::MAX };
        let held_out = part.map_or(n % every == every - 1, |part| part == Part::HeldOut);
        self.validation.is_empty() && held_out
    }

    /// Reports what cannot be read; `usual` is the stage's own share.
    pub fn check(&self, usual: f64, problems: &mut Problems) {
        problems.require(!self.sources.is_empty(), "sources", "is empty", "name a file of records, or world");
        problems.require(
            (0.0..=0.5).contains(&self.val_fraction),
            "val_fraction",
            "is not between 0 and 0.5",
            format!("use {usual}, or 0 for no validation"),
        );
        for (key, paths) in [("sources", self.sources), ("validation", self.validation)] {
            for (i, path) in paths.iter().enumerate() {
                let key = format!("{key}.{i}");
                match Place::of_records(path) {
                    Err(what) => problems.add(&key, what, "write world:4000, or world:4000:SEED"),
                    Ok(Place::Path(path)) if !path.exists() => {
                        let way = "name a file of records (.jsonl, .csv, .tsv, .parquet), or world";
                        problems.add(&key, "does not exist", way);
                    }
                    Ok(_) => {}
                }
            }
        }
    }
}
