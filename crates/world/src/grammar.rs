//! Sentences are templates, filled with who and what a story is about.
//!
//! A slot is a role and a form: `{a}` Mia, `{a.his}` her, `{A}` Mia or she, whichever cannot be
//! misunderstood; `{ab}` Mia and Tom, or they; `{t}` the red kite, `{t.a}` a red kite (its first mention), `{t.own}` red
//! kite, `{t.n}` kite; `{p}` the garden, `{p.at}` in the garden; `{w}` a word; `{n}` a number in words. Capitals at the
//! start of a sentence and a or an come by themselves.

use gptkit_rng::Dice;

use super::state::{Person, Scene, ScenePlace, Thing};
use super::words;

/// Values of the slots of a template. People, things and places are positions in the lists of the [`Scene`]; a role that
/// the template does not name is not read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Roles<'s> {
    /// First person: `{a}`, or `{A}` where a pronoun may stand.
    pub(super) a: usize,
    /// Second person: `{b}`, `{B}`.
    pub(super) b: usize,
    /// Third person: `{c}`, `{C}`.
    pub(super) c: usize,
    /// First thing: `{t}`.
    pub(super) t: usize,
    /// Second thing: `{u}`.
    pub(super) u: usize,
    /// Third thing: `{v}`.
    pub(super) v: usize,
    /// First place: `{p}`.
    pub(super) p: usize,
    /// Second place: `{q}`.
    pub(super) q: usize,
    /// Third place: `{r}`.
    pub(super) r: usize,
    /// Words that stand as they are: `{w}`.
    pub(super) w: &'s str,
    /// More words: `{x}`.
    pub(super) x: &'s str,
    /// More words: `{y}`.
    pub(super) y: &'s str,
    /// A number from 0 to 12, printed in words: `{n}`.
    pub(super) n: usize,
    /// A second number: `{m}`.
    pub(super) m: usize,
}

/// The text of a story as it grows, and who and what a reader knows already.
///
/// Pronouns depend on it: `{A}` becomes `he` or `she` only where the sentence before was about the same person, that
/// person was mentioned last, and nobody else of the same gender was mentioned in this sentence or the one before.
#[derive(Debug)]
pub(super) struct Prose {
    text: String,
    /// Bit `i` is set once person `i` was introduced.
    known_people: u32,
    /// Bit `i` is set once thing `i` was introduced.
    known_things: u32,
    /// The person whom the previous sentence mentioned first.
    subject: Option<usize>,
    /// How many pronouns have stood for the subject since its name did; at most 2.
    pronouns: u8,
    /// People whom the previous sentence mentioned, as bits.
    pub(super) mentioned_before: u32,
    /// People whom this sentence has mentioned so far, as bits.
    pub(super) mentioned: u32,
    /// The person whom this sentence mentioned first.
    pub(super) first: Option<usize>,
    /// The person whom the text mentioned last.
    last: Option<usize>,
    /// Whether the next word starts a sentence, and gets a capital.
    starts: bool,
    /// Whether a part of a sentence is filled on its own: no word gets a capital.
    fragment: bool,
}

impl Prose {
    /// An empty text.
    pub(super) fn new() -> Self {
        Self {
            text: String::with_capacity(1500),
            known_people: 0,
            known_things: 0,
            subject: None,
            pronouns: 0,
            mentioned_before: 0,
            mentioned: 0,
            first: None,
            last: None,
            starts: true,
            fragment: false,
        }
    }

    /// The text so far.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// From now on person `who` is called by name.
    pub(super) fn introduce(&mut self, who: usize) {
        self.known_people |= 1 << who;
    }

    /// Starts a paragraph; names come before pronouns again.
    pub(super) fn paragraph(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        (self.subject, self.mentioned_before, self.pronouns) = (None, 0, 0);
    }

    /// Appends the template as a sentence, or several.
    pub(super) fn sentence(&mut self, scene: &Scene, dice: &mut Dice, roles: &Roles, template: &str) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push(' ');
        }
        (self.starts, self.first) = (true, None);
        self.fill(scene, dice, roles, template);
        self.mentioned_before = self.mentioned;
        self.subject = self.first;
        self.mentioned = 0;
    }

    /// The filled template, as a part of a sentence; it is not appended to the text, and people in it count as mentioned.
    pub(super) fn fragment(&mut self, scene: &Scene, dice: &mut Dice, roles: &Roles, template: &str) -> String {
        let from = self.text.len();
        self.fragment = true;
        self.fill(scene, dice, roles, template);
        self.fragment = false;
        self.text.split_off(from)
    }

    /// The same, but nobody counts as mentioned.
    pub(super) fn aside(&mut self, scene: &Scene, dice: &mut Dice, roles: &Roles, template: &str) -> String {
        let before = (self.mentioned, self.first, self.last);
        let text = self.fragment(scene, dice, roles, template);
        (self.mentioned, self.first, self.last) = before;
        text
    }

    fn fill(&mut self, scene: &Scene, dice: &mut Dice, roles: &Roles, template: &str) {
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            self.literal(&rest[..open]);
            let Some(close) = rest[open..].find('}') else { break };
            self.slot(scene, dice, roles, &rest[open + 1..open + close]);
            rest = &rest[open + close + 1..];
        }
        self.literal(rest);
    }

    fn literal(&mut self, words: &str) {
        self.text.push_str(words);
        self.starts &= words.is_empty() || words == "\"";
    }

    /// Appends the value of a slot, with a capital at the start of a sentence, and `a` before it as `an` where it needs one.
    fn value(&mut self, words: &str) {
        let tail = self.text.as_bytes();
        let inner = matches!(tail, [.., b'.' | b'!' | b'?', b' '] | [.., b' ', b'"']);
        let capital = !self.fragment && (self.starts || inner);
        let vowel =
            matches!(words.as_bytes().first(), Some(b'a' | b'e' | b'i' | b'o' | b'u')) || words.starts_with("hon");
        if vowel && !words.starts_with("honey") && (self.text.ends_with(" a ") || self.text.ends_with("A ")) {
            self.text.pop();
            self.text.push_str("n ");
        }
        let mut chars = words.chars();
        match chars.next() {
            Some(first) if capital => {
                self.text.push(first.to_ascii_uppercase());
                self.text.push_str(chars.as_str());
            }
            _ => self.text.push_str(words),
        }
        self.starts = false;
    }

    fn slot(&mut self, scene: &Scene, dice: &mut Dice, roles: &Roles, slot: &str) {
        let (role, form) = slot.split_once('.').unwrap_or((slot, ""));
        match role {
            "a" => self.person_slot(scene, dice, roles.a, form),
            "b" => self.person_slot(scene, dice, roles.b, form),
            "c" => self.person_slot(scene, dice, roles.c, form),
            "A" => self.subject_slot(scene, dice, roles.a),
            "B" => self.subject_slot(scene, dice, roles.b),
            "C" => self.subject_slot(scene, dice, roles.c),
            "they" => {
                self.mention(roles.a);
                self.mention(roles.b);
                self.value("they");
            }
            "ab" => self.pair_slot(scene, dice, roles.a, roles.b),
            "t" => self.thing_slot(scene, dice, roles.t, form),
            "u" => self.thing_slot(scene, dice, roles.u, form),
            "v" => self.thing_slot(scene, dice, roles.v, form),
            "p" => self.place_slot(scene, roles.p, form),
            "q" => self.place_slot(scene, roles.q, form),
            "r" => self.place_slot(scene, roles.r, form),
            "w" => self.value(roles.w),
            "x" => self.value(roles.x),
            "y" => self.value(roles.y),
            "n" => self.value(words::NUMBERS[roles.n]),
            "m" => self.value(words::NUMBERS[roles.m]),
            _ => debug_assert!(false, "no such slot: {slot}"),
        }
    }

    /// A pronoun where the sentence before had this subject and nobody else whom it could mean.
    fn subject_slot(&mut self, scene: &Scene, dice: &mut Dice, who: usize) {
        let female = scene.people[who].female;
        let rivals = |mask: u32| {
            (0..scene.people.len()).any(|p| p != who && mask >> p & 1 == 1 && scene.people[p].female == female)
        };
        let clear = self.subject == Some(who) && self.last == Some(who);
        if clear && self.pronouns < 2 && !rivals(self.mentioned_before) && !rivals(self.mentioned) {
            self.pronouns += 1;
            self.mention(who);
            self.value(if female { "she" } else { "he" });
        } else {
            self.pronouns = 0;
            self.person_slot(scene, dice, who, "");
        }
    }

    fn pair_slot(&mut self, scene: &Scene, dice: &mut Dice, a: usize, b: usize) {
        if self.mentioned_before == 1 << a | 1 << b && self.pronouns < 2 {
            self.pronouns += 1;
            self.mention(a);
            self.mention(b);
            self.value("they");
        } else {
            self.pronouns = 0;
            self.person_slot(scene, dice, a, "");
            self.text.push_str(" and ");
            self.person_slot(scene, dice, b, "");
        }
    }

    fn mention(&mut self, who: usize) {
        self.mentioned |= 1 << who;
        self.first = self.first.or(Some(who));
        self.last = Some(who);
    }

    fn person_slot(&mut self, scene: &Scene, dice: &mut Dice, who: usize, form: &str) {
        let Person { name, kind, female, character, animal, .. } = scene.people[who];
        let known = self.known_people >> who & 1 == 1;
        self.mention(who);
        match form {
            "" => {
                debug_assert!(known, "{name} was not introduced");
                self.value(name);
            }
            "s" => {
                debug_assert!(known, "{name} was not introduced");
                self.value(name);
                self.text.push_str("'s");
            }
            "he" => self.value(if female { "she" } else { "he" }),
            "He" => self.text.push_str(if female { "She" } else { "He" }),
            "him" => self.value(if female { "her" } else { "him" }),
            "his" => self.value(if female { "her" } else { "his" }),
            "self" => self.value(if female { "herself" } else { "himself" }),
            "kind" => self.value(kind),
            "trait" => self.value(character),
            "hands" => self.text.push_str(match kind {
                "duck" => "wings",
                "goat" => "hooves",
                _ if animal => "paws",
                _ => "hands",
            }),
            "new" => {
                debug_assert!(!known, "{name} was introduced before");
                self.known_people |= 1 << who;
                if dice.chance(40) && !matches!(kind, "girl" | "boy") {
                    self.value(name);
                    self.text.push_str(" the ");
                } else {
                    self.value("a ");
                    self.value(character);
                    self.text.push(' ');
                    self.text.push_str(kind);
                    self.text.push_str(" named ");
                    self.text.push_str(name);
                    return;
                }
                self.text.push_str(kind);
            }
            // The name is about to fall: in "a kind fox named Tom" written out in the template.
            "first" => {
                self.known_people |= 1 << who;
                self.value(name);
            }
            _ => debug_assert!(false, "no such form: {form}"),
        }
    }

    fn thing_slot(&mut self, scene: &Scene, dice: &mut Dice, id: usize, form: &str) {
        let Thing { noun, color, mass, plural, .. } = scene.things[id];
        let known = self.known_things >> id & 1 == 1;
        let full = |prose: &mut Self, lead: &str| {
            prose.value(lead);
            if let Some(color) = color {
                prose.value(color);
                prose.text.push(' ');
            }
            prose.value(noun);
            prose.known_things |= 1 << id;
        };
        match form {
            "" => {
                debug_assert!(known, "{noun} was not introduced");
                if dice.chance(50) {
                    full(self, "the ");
                } else {
                    self.value("the ");
                    self.text.push_str(noun);
                }
            }
            "a" if mass => full(self, "some "),
            "a" => full(self, "a "),
            "own" => full(self, ""),
            "n" => {
                self.value(noun);
                if color.is_none() {
                    self.known_things |= 1 << id;
                }
            }
            "it" => self.value(if plural { "them" } else { "it" }),
            "color" => self.value(color.unwrap_or("plain")),
            _ => debug_assert!(false, "no such form: {form}"),
        }
    }

    fn place_slot(&mut self, scene: &Scene, id: usize, form: &str) {
        let ScenePlace { name, preposition, home_of, .. } = &scene.places[id];
        if let Some(owner) = home_of {
            self.mention(*owner);
        }
        if form == "at" {
            self.value(preposition);
            self.text.push(' ');
        }
        self.value(name);
    }
}
