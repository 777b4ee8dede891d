//! Lost and found: put down, forgotten, missed, searched for in one place, found in another.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let home = t.house(a, p);
    t.seat(a, home);
    let toy = t.thing(words::TOYS, Lies::With(a), Some(a));
    let b = t.person(CastPool::Friend, home);
    let roles = Roles { a, b, t: toy, p, q: home, ..Roles::default() };

    t.hero(a, p);
    t.line(
        &roles,
        &[
            "{A} had {t.a} and took {t.it} everywhere.",
            "The thing that {a} loved most was {t.a}.",
            "{A} owned {t.a} and was never seen without {t.it}.",
            "For a long time {a} had wished for {t.a}, and now {a.he} had one.",
        ],
    );

    t.paragraph();
    let stops = [t.place(|site| !site.indoor), t.place(|_| true)];
    let lost_at = t.dice.below(2);
    let spot = t.spot(stops[lost_at]);
    let w = t.day();
    t.line(
        &Roles { w, ..roles },
        &[
            "{w} {a} went out with {t}.",
            "{w} {a} took {t} and left the house.",
            "{w} {a} wanted to go for a long walk with {t}.",
        ],
    );
    for (i, &stop) in stops.iter().enumerate() {
        t.go(&[a], stop);
        let here = Roles { p: stop, ..roles };
        if i == lost_at {
            t.happen(StoryEvent::Lose { who: a, thing: toy, spot });
            t.line(
                &here,
                &[
                    "{A} put {t} down to watch a bird, and then forgot about it.",
                    "{A} put {t} down to rest a little. When {a.he} went on, {t.it} stayed behind.",
                    "There {a} met a butterfly and ran after it. {t} fell to the ground, and nobody noticed.",
                    "{A} laid {t} aside to drink some water, and thought of it no more.",
                ],
            );
        } else {
            t.line(
                &here,
                &[
                    "{A} looked around and hummed a little song.",
                    "It was quiet {p.at}, and {a} stayed for a while.",
                    "{A} said hello to everybody {p.at}.",
                    "{A} sat down {p.at} and ate an apple.",
                ],
            );
        }
    }
    t.go(&[a], home);
    t.line(
        &roles,
        &[
            "Only then did {a} see that {t} was gone.",
            "At the door {a} stopped. Where was {t}?",
            "At home {a} wanted to play with {t}, but {t.it} was not there.",
        ],
    );
    t.feel(&roles, Feeling::Sad, "{a.he} had lost {a.his} {t.n}");
    t.show(&roles);

    t.paragraph();
    t.line(
        &roles,
        &[
            "Just then a friend knocked at the door. It was {b.new}.",
            "Soon a friend came to visit. It was {b.new}.",
            "A neighbor looked in at the window. It was {b.new}.",
        ],
    );
    t.line(
        &roles,
        &[
            "\"What is the matter?\" asked {b}. \"My {t.n} is gone,\" said {a}.",
            "\"Why do you look so sad?\" asked {b}. \"I cannot find my {t.n},\" said {a}.",
            "\"Have you seen my {t.n}?\" asked {a}. \"No,\" said {b}, \"but two can look better than one.\"",
        ],
    );
    t.line(
        &roles,
        &[
            "\"Then we will look for it together,\" said {b}.",
            "\"Come, I will help you look,\" said {b}.",
            "\"Do not cry,\" said {b}. \"We will go back the way you came.\"",
        ],
    );
    let first = if t.dice.chance(60) { 1 - lost_at } else { lost_at };
    for stop in [first, 1 - first] {
        t.go(&[a, b], stops[stop]);
        let (w, x) = (t.spot(stops[stop]), spot);
        let here = Roles { p: stops[stop], w, x, ..roles };
        if stop == lost_at {
            let finder = if t.dice.chance(50) { a } else { b };
            t.happen(StoryEvent::Find { who: finder, thing: toy });
            t.line(
                &Roles { a: finder, ..here },
                &[
                    "{A} looked {x}, and there was {t}!",
                    "\"I see it!\" cried {a}. {t} was {x}, and {a} picked {t.it} up.",
                    "And there it was! {A} found {t} {x}.",
                ],
            );
            if finder == b {
                t.happen(StoryEvent::Hand { from: b, to: a, thing: toy });
                t.line(
                    &roles,
                    &[
                        "{B} handed {t} to {a}.",
                        "\"Here you are,\" said {b}, and handed {t} to {a}.",
                        "{B} gave {t} back to {a}.",
                    ],
                );
            }
            break;
        }
        t.happen(StoryEvent::Search { who: a, thing: toy });
        t.line(
            &here,
            &[
                "{they} looked {w} and in every corner, but {t} was not there.",
                "{they} looked {w}, but they found nothing.",
                "{they} looked high and low, but there was no {t.n} {p.at}.",
            ],
        );
    }
    t.happen(StoryEvent::Help { who: b, whom: a });
    t.feel(&roles, Feeling::Happy, "{a.his} {t.n} was back");
    t.show(&roles);
    t.paragraph();
    t.line(
        &roles,
        &[
            "\"Thank you for your help, {b},\" said {a}. \"Now let us play!\" And so they did until the evening.",
            "\"Without you I would still be looking,\" said {a}. {B} laughed. \"That is what friends are for.\"",
            "From that day on, {a} took better care of {a.his} {t.n}. And {a.he} never forgot who had helped.",
            "\"You are a true friend,\" said {a} to {b}. Then the two of them played until the sun went down.",
        ],
    );
    t.render(&roles, "The Lost {t.n}")
}
