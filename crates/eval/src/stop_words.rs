//! Function words of English, for the stop-word filter of LAMBADA (Radford et al. 2019, §3.3): the last word of its
//! passages is a content word, so a function word cannot be the answer.
//!
//! The paper does not publish its list. This one is of the closed classes, and of the adverbs that only modify, order
//! or connect; what is as often a noun or a verb (`past`, `well`), and adverbs of manner, are no stop words.

/// Whether `word` is a function word, whatever its case; a typographic apostrophe is as good as a straight one.
#[must_use]
pub(crate) fn is_stop_word(word: &str) -> bool {
    let word = word.to_lowercase().replace('’', "'");
    CLASSES.iter().any(|class| class.split(' ').any(|of_class| of_class == word))
}

const CLASSES: [&str; 8] =
    [DETERMINERS, PRONOUNS, AUXILIARIES, PREPOSITIONS, CONJUNCTIONS, ADVERBS, PARTICLES, CONTRACTIONS];

/// Articles, demonstratives, possessives, quantifiers.
const DETERMINERS: &str = "\
    a all an another any both each either enough every few fewer her his its least less many more most much my \
    neither no other our own same several some such that the their these this those various what whatever which \
    whichever whose your";

/// Personal, reflexive, indefinite, interrogative.
const PRONOUNS: &str = "\
    anybody anyone anything everybody everyone everything he hers herself him himself i it itself me mine myself \
    nobody none nothing one oneself others ours ourselves she somebody someone something theirs them themselves \
    they thou thee thy us we who whoever whom whomever you yours yourself yourselves";

/// Forms of be, have and do, and the modals.
const AUXILIARIES: &str = "\
    am are be been being can cannot could did do does doing done had has have having is may might must ought shall \
    should was were will would";

const PREPOSITIONS: &str = "\
    aboard about above across after against along alongside amid amidst among amongst around as at atop before \
    behind below beneath beside besides between beyond by concerning despite down during except for from in inside \
    into like near of off on onto out outside over per regarding since than through throughout till to toward \
    towards under underneath unlike until unto up upon versus via with within without";

/// Coordinating and subordinating.
const CONJUNCTIONS: &str = "\
    albeit although and because but if lest nor once or provided so though unless when whenever where whereas \
    wherever whether while whilst yet";

/// Of degree, time, place and order, and those that connect sentences.
const ADVERBS: &str = "\
    afterward afterwards again ago almost already also altogether always anymore anyway anywhere away back else \
    elsewhere even ever everywhere far further furthermore hence here how however indeed instead just later maybe \
    meanwhile merely moreover mostly nearly never nevertheless next nonetheless now nowhere often only otherwise \
    perhaps quite rather really seldom simply sometimes somehow somewhat somewhere soon still then thereby \
    therefore there thus together too very why";

/// Negation, answers, interjections.
const PARTICLES: &str = "ah aye hey nay not oh okay please yeah yes";

/// As words, and as the halves that some texts split them into.
const CONTRACTIONS: &str = "\
    'd 'll 'm 're 's 't 'tis 'twas 've ain't aren't can't couldn't couldn't've didn't doesn't don't hadn't hasn't \
    haven't he'd he'll he's here's how'd how's i'd i'll i'm i've isn't it'd it'll it's let's mightn't mustn't n't \
    needn't oughtn't shan't she'd she'll she's should've shouldn't could've might've must've would've that'd \
    that'll that's there'd there'll there's they'd they'll they're they've wasn't we'd we'll we're we've weren't \
    what'll what're what's when's where'd where's who'd who'll who's who've why'd why's won't wouldn't y'all you'd \
    you'll you're you've";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_sentence_keeps_its_words_of_meaning() {
        let sentence = "Although she hadn’t been to the Harbor before, THEY could see at once why nobody else would \
                        ever want to leave it, and I'd rather not tell him that his brother slowly painted the boat";
        let words = sentence.split([' ', ',']).filter(|word| !word.is_empty());
        let kept: Vec<&str> = words.filter(|word| !is_stop_word(word)).collect();
        assert_eq!(kept, ["Harbor", "see", "want", "leave", "tell", "brother", "slowly", "painted", "boat"]);
    }

    #[test]
    fn words_are_listed_once_as_they_are_looked_up() {
        let mut seen = HashSet::new();
        for word in CLASSES.into_iter().flat_map(|class| class.split(' ')) {
            assert!(seen.insert(word), "{word} twice");
            assert!(is_stop_word(word) && is_stop_word(&word.to_uppercase()), "{word}");
        }
    }

    #[test]
    fn nothing_and_punctuation_are_no_function_words() {
        for none in ["", " ", ".", "'", "th", "the ", "a an"] {
            assert!(!is_stop_word(none), "{none:?}");
        }
    }
}
