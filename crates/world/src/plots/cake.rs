//! Baking: what the kitchen lacks has to be fetched, each thing from where it is.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;

struct Ware {
    noun: &'static str,
    from: &'static str,
    holder: Option<&'static str>,
}

const WARES: [Ware; 6] = [
    Ware { noun: "flour", from: "the old mill", holder: Some("miller") },
    Ware { noun: "eggs", from: "the farm", holder: Some("farmer") },
    Ware { noun: "milk", from: "the meadow", holder: Some("shepherd") },
    Ware { noun: "sugar", from: "the bakery", holder: Some("baker") },
    Ware { noun: "apples", from: "the orchard", holder: None },
    Ware { noun: "cherries", from: "the garden", holder: None },
];

const CAKES: [(&str, [usize; 2]); 5] = [
    ("apple cake", [0, 4]),
    ("cherry cake", [0, 5]),
    ("sugar cake", [3, 1]),
    ("milk pudding", [2, 3]),
    ("cherry pie", [1, 5]),
];

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let (cake, [one, two]) = t.dice.pick(&CAKES);
    let used = [WARES[one].from, WARES[two].from];
    let p =
        t.place(|site| !site.indoor && !matches!(site.name, "the farm" | "the meadow" | "the orchard" | "the garden"));
    let a = t.person(CastPool::Friend, p);
    let home = t.house(a, p);
    t.seat(a, home);
    let b = t.person(CastPool::Friend, p);
    let house_b = t.house(b, p);
    t.seat(b, house_b);
    let [first_at, second_at] = used.map(|name| t.site_named(name));
    let order =
        if t.dice.chance(50) { [(one, first_at), (two, second_at)] } else { [(two, second_at), (one, first_at)] };
    let mut wares = Vec::new();
    for (ware, at) in order {
        let Ware { noun, holder, .. } = &WARES[ware];
        let who = holder.map(|trade| t.worker_called(trade, at));
        let lies = who.map_or(Lies::At { place: at, spot: None }, Lies::With);
        wares.push((t.plain_thing(noun, lies, who), who, at));
    }
    let cake = t.plain_thing(cake, Lies::Unmade, None);
    let roles = Roles { a, b, t: wares[0].0, u: wares[1].0, v: cake, p, q: home, r: house_b, ..Roles::default() };

    t.hero(a, p);
    t.paragraph();
    let w = t.day();
    let sick = t.dice.chance(50);
    if sick {
        t.line(
            &Roles { w, ..roles },
            &[
                "{w} {a} heard that a friend was ill. It was {b.new}.",
                "{w} there was sad news: {a.s} friend was ill and had to stay in bed. It was {b.new}.",
            ],
        );
        t.line(&roles, &["\"A good {v.n} would help,\" thought {a}.", "\"I will bake {v.a} for {b},\" said {a}."]);
    } else {
        t.line(
            &Roles { w, ..roles },
            &[
                "{w} {a} wanted to bake {v.a} for a friend, {b.new}.",
                "{w} {a} had an idea. \"I will bake {v.a} for my friend!\" The friend was {b.new}.",
            ],
        );
    }
    t.line(
        &roles,
        &[
            "But when {a} looked on the shelf, {a.he} found no {u.n} and no {t.n}.",
            "In the kitchen {a} found almost everything. Only two things were missing: the {t.n} and the {u.n}.",
            "\"I need {t.n} and {u.n},\" said {a}, \"and I have neither.\"",
        ],
    );

    t.paragraph();
    for &(ware, who, at) in &wares {
        t.go(&[a], at);
        let here = Roles { c: who.unwrap_or(0), t: ware, p: at, ..roles };
        let Some(who) = who else {
            t.happen(StoryEvent::Take { who: a, thing: ware });
            t.line(
                &here,
                &[
                    "The trees were full, and {a} picked {t.a}.",
                    "{A} reached up into the branches and picked {t.a}.",
                    "There {a} picked {t.a}, the ripest of all.",
                ],
            );
            continue;
        };
        t.line(&here, &["{c.new} opened the door.", "There {a.he} met {c.new}.", "{c.new} was already at work."]);
        t.line(
            &here,
            &[
                "\"Can I have {t.a}, please?\" asked {a}.",
                "\"I want to bake something, but I have no {t.n},\" said {a}.",
                "\"Good day,\" said {a}. \"Do you have {t.a} for me?\"",
            ],
        );
        if t.dice.chance(50) {
            t.happen(StoryEvent::Help { who: a, whom: who });
            t.line(
                &here,
                &[
                    "\"If you help me first,\" said {c}. So {a} helped {c} and swept the floor.",
                    "\"Gladly, but first I need some help,\" said {c}. So {a} helped {c} to carry wood.",
                ],
            );
        }
        t.happen(StoryEvent::Give { from: who, to: a, thing: ware });
        t.line(
            &here,
            &[
                "Then {c} gave {t} to {a}.",
                "{C} gave {a} {t}, and {a} said thank you.",
                "With a smile {c} gave {t} to {a}.",
            ],
        );
    }

    t.paragraph();
    t.go(&[a], home);
    t.happen(StoryEvent::Make { who: a, thing: cake, from: vec![wares[0].0, wares[1].0] });
    t.line(
        &roles,
        &[
            "{A} took {t} and {u}, stirred for a long time, and baked {v.a}.",
            "Then {a} mixed {t} with {u} and put everything in the oven. After an hour there was {v.a} on the table.",
            "With {t} and {u}, {a} made {v.a}, and the whole house smelled good.",
        ],
    );
    t.maybe(
        50,
        &roles,
        &[
            "{A} wanted to taste a little, but did not.",
            "It was warm and round and smelled wonderful.",
            "A little smoke came from the oven, but nothing was burned.",
        ],
    );
    t.go(&[a], house_b);
    t.happen(StoryEvent::Give { from: a, to: b, thing: cake });
    t.line(&roles, &["\"This is for you,\" said {a}, and gave {v} to {b}.", "{A} gave {v} to {b}."]);
    if sick {
        t.feel(&Roles { a: b, b: a, ..roles }, Feeling::Happy, "{b} had come to visit");
    } else {
        t.feel(&Roles { a: b, b: a, ..roles }, Feeling::Happy, "{b} had baked something just for {a.him}");
    }
    t.happen(StoryEvent::Eat { who: vec![a, b], thing: cake });
    t.line(
        &roles,
        &[
            "They ate it together until nothing was left.",
            "\"Things taste better with a friend,\" said {b}, and cut it in two. They ate it all.",
            "They sat at the table and ate it up to the last crumb.",
        ],
    );
    t.maybe(
        60,
        &roles,
        &[
            "\"I feel much better now,\" said {b}.",
            "\"Next time I will bake for you,\" said {b}.",
            "\"Can we do this every week?\" asked {b}.",
        ],
    );
    t.render(&roles, "A {v.n} for {b}")
}
