//! What a user may set, checked as a whole before anything runs.
//!
//! It has no settings itself: each crate defines its section next to the code that uses it, and says with [`Check`]
//! what makes sense. [`load()`] turns TOML and `--set` into such a section and finds the line of every problem.

mod differences;
mod fields;
mod keys;
mod load;
mod nearest;
mod problems;
mod usage;

pub use differences::{Difference, differences};
pub use keys::{ConfigKey, keys, schema};
pub use load::{EXTENDS, Invalid, is_at_or_below, load, load_over, merge, resolved};
pub use nearest::nearest;
pub use problems::{Check, Problem, Problems};
pub use usage::{Usage, with_hint};
