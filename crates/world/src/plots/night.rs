//! A noise in the dark: fear is large, and what is behind it is small.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

const NOISES: [(&str, &str, &str); 4] = [
    ("a soft knocking", "knocking", "\"I turned over every stone, and they knock when they fall,\" said {c}."),
    ("a strange scratching", "scratching", "\"I scratched in the dust to look under it,\" said {c}."),
    ("a long, low humming", "humming", "\"I hum when I am alone in the dark,\" said {c}."),
    ("a quiet sobbing", "sobbing", "\"I could not help crying,\" said {c}."),
];

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|_| true);
    let a = t.person(CastPool::Friend, p);
    let home = t.house(a, p);
    t.seat(a, home);
    let b = t.person(CastPool::Friend, p);
    let house_b = t.house(b, p);
    t.seat(b, house_b);
    let c = t.person(CastPool::Animal, p);
    let lamp = t.thing(&["lantern", "lamp", "candle"], Lies::With(b), Some(b));
    let lost = t.thing(words::TOYS, Lies::At { place: p, spot: None }, Some(c));
    let spot = t.spot(p);
    let (noise, kind_of_noise, reason) = t.dice.pick(&NOISES);
    let roles = Roles {
        a,
        b,
        c,
        t: lamp,
        u: lost,
        p,
        q: home,
        r: house_b,
        w: noise,
        x: kind_of_noise,
        y: spot,
        ..Roles::default()
    };

    t.hero(a, p);
    t.paragraph();
    t.line(
        &roles,
        &[
            "One night {a} lay in bed and could not sleep. From {p} came {w}.",
            "It was late, and the moon was shining. Suddenly {a} heard {w}. It came from {p}.",
            "One dark night {a} woke up. Something was out there! {A} heard {w}, and it came from {p}.",
        ],
    );
    t.feel(&roles, Feeling::Afraid, "{a.he} did not know what made the noise");
    t.line(
        &roles,
        &[
            "\"Maybe it is a ghost,\" thought {a}.",
            "\"Is it a monster?\" thought {a}.",
            "{A} pulled the blanket up, but the {x} did not stop.",
        ],
    );
    t.line(
        &roles,
        &[
            "But staying in bed did not help.",
            "\"I have to know what it is,\" said {a} at last.",
            "\"I will not go alone,\" said {a} at last.",
        ],
    );
    t.go(&[a], house_b);
    t.line(&roles, &["{b.new} opened the door and yawned.", "There lived {b.new}, and {b} was not asleep yet."]);
    t.line(
        &roles,
        &[
            "\"Do you hear that {x}?\" asked {a}. {B} listened. \"Yes. Let us go and look.\"",
            "{A} told {b} about the {x}. \"Together we need not be afraid,\" said {b}.",
        ],
    );
    t.happen(StoryEvent::Help { who: b, whom: a });
    t.line(
        &roles,
        &["So {b} lit {t.a} and came along to help {a}.", "{B} wanted to help {a} and took {t.a} from the shelf."],
    );

    t.paragraph();
    t.go(&[a, b], p);
    t.line(
        &roles,
        &[
            "The {x} grew louder.",
            "It was dark, and every shadow looked like a giant.",
            "\"Who is there?\" called {a}.",
        ],
    );
    t.line(
        &roles,
        &[
            "{B} held up {t}. And what did they see? {y} there was only {c.new}!",
            "Then the light fell on somebody small. It was {c.new}, {y}.",
        ],
    );
    t.line(
        &roles,
        &[
            "\"I did not want to wake you,\" said {c}. \"I have lost my {u.own}, and I cannot find it in the dark.\"",
            "\"Please do not be angry,\" said {c}. \"I am looking for my {u.own}. It must be here somewhere.\"",
        ],
    );
    t.line(&roles, &[reason]);
    t.feel(&Roles { a: c, ..roles }, Feeling::Sad, "{a.he} could not find {a.his} {u.n}");
    let finder = if t.dice.chance(50) { a } else { b };
    t.line(
        &roles,
        &[
            "\"Is that all?\" said {a}. \"We have a light. We will help you.\"",
            "{A} had to laugh. \"Then we will look together,\" said {a}.",
        ],
    );
    t.happen(StoryEvent::Find { who: finder, thing: lost });
    t.happen(StoryEvent::Help { who: a, whom: c });
    t.happen(StoryEvent::Help { who: b, whom: c });
    t.happen(StoryEvent::Hand { from: finder, to: c, thing: lost });
    t.line(
        &Roles { a: finder, ..roles },
        &[
            "It did not take long. {A} found {u} and handed it to {c}.",
            "After a while {a} found {u} on the ground and handed it to {c}.",
        ],
    );
    t.feel(&Roles { a: c, ..roles }, Feeling::Grateful, "the two had helped {a.him}");
    t.paragraph();
    t.line(
        &roles,
        &[
            "After that night {a} was not afraid of the dark any more. Things are often smaller than they sound.",
            "\"Most ghosts only need a little help,\" said {b}.",
            "The three sat together for a long time. \"Next time just call us,\" said {a}.",
        ],
    );
    t.render(&roles, "The noise in the night")
}
