//! The name that somebody may have meant.

/// The name of `known` that is most like `name`, if one is: at most a third of its characters differ, by insertion, deletion,
/// substitution or transposition (Damerau 1964).
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let distances = known.into_iter().map(|known| (strsim::damerau_levenshtein(known, name), known));
    distances.min().filter(|(distance, known)| *distance <= known.len().div_ceil(3)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_and_another_word_none() {
        let presets = ["small", "char", "gpt2-small", "ppo-small"];
        assert_eq!(nearest("gtp2-small", presets), Some("gpt2-small"));
        assert_eq!(nearest("ppo-smal", presets), Some("ppo-small"));
        assert_eq!(nearest("nope", presets), None);
        assert_eq!(nearest("small", []), None);
    }
}
