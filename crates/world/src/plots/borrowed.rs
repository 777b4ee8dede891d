//! Something borrowed: it breaks, a lie would be easy, and the truth is better.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let lender_at = t.place(|_| true);
    let b = t.person(CastPool::Friend, lender_at);
    let play = t.place(|site| !site.indoor);
    let thing = t.thing(words::FRAGILE, Lies::With(b), Some(b));
    let own = t.thing(words::TOYS, Lies::With(a), Some(a));
    let roles = Roles { a, b, t: thing, u: own, p, q: lender_at, r: play, ..Roles::default() };

    t.hero(a, p);
    t.line(&roles, &["{A} had {u.a}, but no toy that was big.", "{A} had only one toy, {u.a}."]);
    t.paragraph();
    let w = t.day();
    t.line(&Roles { w, ..roles }, &["{w} {a} wanted to visit a friend.", "{w} {a} had nothing to do."]);
    t.go(&[a], lender_at);
    t.line(&roles, &["{b.new} was there with {t.a}.", "There was {b.new}, who had {t.a}."]);
    t.happen(StoryEvent::Want { who: a, thing });
    t.line(
        &roles,
        &[
            "{A} wanted to play with {t} so much! \"Can I borrow your {t.n}?\" {a} asked.",
            "\"How I want to have such a {t.n}!\" said {a}. \"Will you lend it to me?\"",
        ],
    );
    t.happen(StoryEvent::Hand { from: b, to: a, thing });
    t.line(
        &roles,
        &[
            "\"Yes, but be careful,\" said {b}, and lent {t} to {a}.",
            "{B} thought about it. \"Bring it back tonight,\" said {b}, and lent {t} to {a}.",
        ],
    );
    t.go(&[a], play);
    t.line(
        &roles,
        &["{A} played and played, wilder and wilder.", "What fun that was! {A} forgot all about being careful."],
    );
    t.happen(StoryEvent::Break { who: a, thing });
    t.line(
        &roles,
        &[
            "Then {a} fell over a stone, and {t} broke.",
            "Crack! {A} had run against a post, and {t} was broken.",
            "{A} did not see the stone, stumbled, and broke {t}.",
        ],
    );
    t.feel(&roles, Feeling::Worried, "{a.he} had broken {b.s} {t.n}");

    t.paragraph();
    t.line(
        &roles,
        &[
            "\"I could say that the wind did it,\" thought {a}. \"But that would be a lie.\"",
            "\"If I say nothing, maybe nobody will know,\" thought {a}. But that did not feel right.",
            "For a long time {a} sat there. Should {a.he} hide the {t.n}? No, that was not right.",
        ],
    );
    let mends = t.dice.chance(40);
    if mends {
        t.happen(StoryEvent::Mend { who: a, thing });
        t.line(
            &roles,
            &[
                "{A} got some string and mended {t}, but one could still see the crack.",
                "With glue and a lot of patience {a} mended {t}, though it did not look new any more.",
            ],
        );
    }
    t.go(&[a], lender_at);
    t.line(
        &roles,
        &[
            "\"I have to tell you something,\" said {a}. \"I broke your {t.n}. I am sorry.\"",
            "\"It was me,\" said {a}. \"I was not careful, and your {t.n} broke.\"",
        ],
    );
    t.happen(StoryEvent::Hand { from: a, to: b, thing });
    if mends {
        t.line(&roles, &["{A} gave {t} back to {b}. \"I have mended it as well as I could.\""]);
    } else {
        t.line(&roles, &["{A} gave {t} back to {b}.", "With a red face {a} gave the broken {t.n} back to {b}."]);
    }
    let gives = t.dice.chance(60);
    if gives {
        t.happen(StoryEvent::Give { from: a, to: b, thing: own });
        t.line(
            &roles,
            &[
                "\"And you can have my {u.n},\" said {a}, and gave {u} to {b}.",
                "Then {a} gave {u} to {b}. \"Take this for it,\" said {a}.",
            ],
        );
    }
    t.line(&roles, &["{B} was quiet for a moment.", "{B} looked at it from all sides.", "At first {b} said nothing."]);
    t.feel(&Roles { a: b, b: a, ..roles }, Feeling::Happy, "{b} had told the truth");
    t.line(&roles, &["\"Thank you for telling me,\" said {b}.", "\"That was brave of you,\" said {b}."]);
    if mends {
        t.line(
            &roles,
            &[
                "\"It still works,\" said {b}. \"Come, we will play together.\"",
                "\"Now it is even more special,\" said {b}.",
            ],
        );
    } else {
        t.happen(StoryEvent::Mend { who: b, thing });
        t.happen(StoryEvent::Help { who: a, whom: b });
        t.line(
            &roles,
            &[
                "\"We can mend it,\" said {b}. {A} helped {b}, and when the sun went down, {b} had mended {t}.",
                "{B} mended {t} that same evening, and {a} helped {b} with it.",
            ],
        );
    }
    t.line(
        &roles,
        &[
            "The truth takes courage, but it keeps friends together.",
            "\"You can borrow it again,\" said {b}, \"because I can trust you.\"",
            "Things can be mended. It is harder to mend a lie.",
        ],
    );
    t.render(&roles, "The borrowed {t.n}")
}
