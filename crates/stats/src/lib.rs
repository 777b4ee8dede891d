//! Statistics of measured numbers: moments, correlations, intervals, the bootstrap.
//!
//! - [`moments`]      mean, variance, standard errors
//! - [`correlation`]  Pearson's and Spearman's
//! - [`interval`]     the middle 95% of drawn values
//! - [`share`]        a share with its 95% confidence interval over clusters
//! - [`bootstrap`]    standard errors of any statistic
//! - [`bradley_terry`] strengths of models from comparisons
//!
//! One rule for edges: a statistic that is undefined (a mean of no values, a correlation with values that are all the
//! same) is NaN, never 0. A caller that wants another value says so where it calls.

pub mod bootstrap;
pub mod bradley_terry;
pub mod correlation;
pub mod interval;
pub mod moments;
pub mod share;

pub use bradley_terry::{PairOutcome, Strength, strengths};
pub use correlation::{pearson, spearman};
pub use interval::Interval;
pub use moments::{Moments, mean, mean_of_estimates, mean_with_error, sample_variance, student_t_975, variance};
pub use share::{Share, standard_error_of_share};
