//! Durations and amounts of memory, for people to read. Numbers with separators are [`crate::progress::grouped`]'s.

use crate::progress::grouped;

/// A duration that was estimated, in the unit that people would use: `1.5 min`, `3 days`, `1,200 years`.
pub fn estimated_duration(seconds: f64) -> String {
    let (n, unit) = match seconds {
        s if s < 120.0 => (s, "s"),
        s if s < 2.0 * 3600.0 => (s / 60.0, "min"),
        s if s < 2.0 * 86_400.0 => (s / 3600.0, "h"),
        s if s < 2.0 * 365.25 * 86_400.0 => (s / 86_400.0, "days"),
        s => (s / (365.25 * 86_400.0), "years"),
    };
    if n >= 10.0 { format!("{} {unit}", grouped(n.round() as u64)) } else { format!("{n:.1} {unit}") }
}

/// A duration that was measured: `4.2 s`, `3 min 20 s`, `1 h 2 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 if whole.is_multiple_of(60) => format!("{} min", whole / 60),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// A duration in a column of durations, in whole seconds: `45 s`, `3 min 05 s`, `75 min 00 s`.
pub fn minutes(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} min {:02} s", whole / 60, whole % 60) }
}

/// Memory that is needed, in decimal units, rounded up to megabytes below a gigabyte.
pub fn needed_bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= 1e9 { format!("{:.2} GB", bytes / 1e9) } else { format!("{:.0} MB", (bytes / 1e6).ceil()) }
}

/// Memory that was measured, in decimal units.
pub fn measured_bytes(bytes: f64) -> String {
    if bytes >= 1e9 { format!("{:.1} GB", bytes / 1e9) } else { format!("{:.0} MB", bytes / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_that_people_use() {
        let estimates = [3.0, 600.0, 9e3, 4e5, 1e11].map(estimated_duration);
        assert_eq!(estimates, ["3.0 s", "10 min", "2.5 h", "4.6 days", "3,169 years"]);
        assert_eq!(
            [4.21, 59.4, 200.0, 180.0, 3725.0].map(duration),
            ["4.2 s", "59 s", "3 min 20 s", "3 min", "1 h 2 min"]
        );
        assert_eq!([0.4, 59.4, 247.3, 3600.0].map(minutes), ["0 s", "59 s", "4 min 07 s", "60 min 00 s"]);
    }

    #[test]
    fn memory_is_in_decimal_units() {
        assert_eq!([1, 2_500_000, 3_140_000_000].map(needed_bytes), ["1 MB", "3 MB", "3.14 GB"]);
        assert_eq!([1.4e6, 2.55e9].map(measured_bytes), ["1 MB", "2.5 GB"]);
    }
}
