//! A quarrel: two want one thing, it breaks, and being alone is worse than sharing.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let b = t.person(CastPool::Friend, p);
    let lies = Lies::At { place: p, spot: None };
    let toy = t.thing(words::FRAGILE, lies, None);
    let alone = t.place(|_| true);
    let c = t.worker();
    let workshop = t.at(c);
    let roles = Roles { a, b, c, t: toy, p, q: alone, r: workshop, ..Roles::default() };

    t.hero(a, p);
    t.line(&roles, &["{a.s} best friend was {b.new}.", "{A} had a friend, {b.new}, and they did everything together."]);
    t.paragraph();
    let w = t.day();
    t.line(
        &Roles { w, ..roles },
        &[
            "{w} the two friends found {t.a} {p.at}.",
            "{w} the two were {p.at}, and there lay {t.a} that belonged to nobody.",
        ],
    );
    let (grabs, pulls) = if t.dice.chance(50) { (a, b) } else { (b, a) };
    t.happen(StoryEvent::Take { who: grabs, thing: toy });
    let fight = Roles { a: grabs, b: pulls, ..roles };
    t.line(&fight, &["{A} took hold of it first.", "{A} was quick and picked it up.", "{A} ran ahead and took it."]);
    t.happen(StoryEvent::Quarrel { a, b });
    t.line(
        &fight,
        &[
            "\"It is mine!\" said {a}. \"No, I saw it first!\" cried {b}.",
            "\"Let me have it,\" said {b}. \"No, I took it first,\" said {a}. And so they began to quarrel.",
            "\"I want to play with it,\" said {b}. \"Not now,\" said {a}. Soon the two were shouting.",
        ],
    );
    t.happen(StoryEvent::Break { who: pulls, thing: toy });
    t.line(
        &fight,
        &[
            "{B} pulled so hard that {t} broke.",
            "{A} held on. {B} pulled with all {b.his} strength, and {t} broke in two.",
            "Then {b} gave it a push. {t} fell on a stone and broke.",
        ],
    );
    t.feel(&fight, Feeling::Angry, "{b} had broken the {t.n}");
    t.line(
        &fight,
        &[
            "\"I do not want to see you any more!\" shouted {a}.",
            "\"You are not my friend!\" shouted {a}.",
            "\"Now look what you did!\" shouted {a}.",
        ],
    );

    t.paragraph();
    t.go(&[pulls], alone);
    let lonely = Roles { a: pulls, b: grabs, ..roles };
    t.line(
        &lonely,
        &[
            "{A} tried to play, but it was no fun without a friend.",
            "There was nobody to talk to, and the time went by slowly.",
            "{A} threw little stones, one after another, and thought.",
        ],
    );
    t.feel(&lonely, Feeling::Lonely, "{a.he} missed {a.his} friend");
    t.show(&lonely);
    t.line(
        &lonely,
        &[
            "\"A toy is only a toy,\" thought {a}, \"but there is only one {b}.\"",
            "\"I was wrong,\" thought {a}. \"I will say so.\"",
        ],
    );
    t.go(&[pulls], p);
    t.line(
        &lonely,
        &["{B} was still sitting there with the broken {t.n}.", "{B} was still there, and had not moved at all."],
    );
    t.happen(StoryEvent::MakeUp { a, b });
    t.line(
        &lonely,
        &[
            "\"I am sorry that I broke it,\" said {a}. \"I am sorry that I shouted,\" said {b}. Then they hugged.",
            "\"Please forgive me,\" said {a}. \"Only if you forgive me, too,\" said {b}. So they were friends again.",
        ],
    );

    t.paragraph();
    if t.dice.chance(65) {
        t.line(&roles, &["\"Maybe somebody can mend it,\" said {b}.", "\"Let us get it mended,\" said {a}."]);
        t.go(&[a, b], workshop);
        t.line(&roles, &["There they met {c.new}.", "{c.new} was there and looked up from work."]);
        t.happen(StoryEvent::Mend { who: c, thing: toy });
        t.happen(StoryEvent::Help { who: c, whom: a });
        t.line(
            &roles,
            &[
                "\"That is not hard,\" said {c}, took some glue and string, and mended {t}.",
                "{C} helped them and mended {t} with a nail and a drop of glue.",
            ],
        );
    } else {
        t.happen(StoryEvent::Mend { who: a, thing: toy });
        t.line(
            &roles,
            &[
                "{B} brought glue, and {a} mended {t}.",
                "Then {a} mended {t} with a piece of string, and {b} held it still.",
            ],
        );
    }
    t.feel(&roles, Feeling::Happy, "the {t.n} was whole again");
    t.line(
        &roles,
        &[
            "From then on they took turns, one day {a}, one day {b}.",
            "\"You first,\" said {a}. \"No, you first,\" said {b}, and they both had to laugh.",
            "What one has to share is worth twice as much.",
        ],
    );
    t.render(&roles, "The broken {t.n}")
}
