//! A storm: the wind takes something, a dry place is found, and the thing turns up where the wind dropped it.

use crate::cast::CastPool;
use crate::grammar::Roles;
use crate::state::{Feeling, Lies, StoryEvent};
use crate::teller::Teller;
use crate::words;

pub(super) fn tell(t: &mut Teller<'_>) -> String {
    let p = t.place(|site| !site.indoor);
    let a = t.person(CastPool::Friend, p);
    let b = t.person(CastPool::Friend, p);
    let light = t.thing(words::LIGHT, Lies::With(a), Some(a));
    let shelter = t.place(|site| site.indoor);
    let landed = t.place(|site| !site.indoor);
    let spot = t.spot(landed);
    let roles = Roles { a, b, t: light, p, q: shelter, r: landed, ..Roles::default() };

    t.hero(a, p);
    t.paragraph();
    let w = t.day();
    t.line(
        &Roles { w, ..roles },
        &[
            "{w} {a} was playing {p.at} with a friend, {b.new}.",
            "{w} {a} was {p.at}, and {a.his} friend was there as well. It was {b.new}.",
            "{w} {a} and a friend met {p.at}. The friend was {b.new}.",
        ],
    );
    t.line(
        &roles,
        &["{A} had brought {t.a}.", "{A} was holding {t.a}.", "{A} had {t.a}, a gift from {a.his} grandmother."],
    );
    t.line(
        &roles,
        &[
            "At noon dark clouds came up, and the wind began to blow.",
            "Then the sky turned gray, and the trees began to shake in the wind.",
            "After a while the sun went away. Far off there was thunder.",
        ],
    );
    t.happen(StoryEvent::Blow { thing: light, to: landed, spot });
    t.line(
        &roles,
        &[
            "A strong wind pulled {t} out of {a.s} {a.hands} and carried it away.",
            "Suddenly the wind took hold of {t}. Up it went, over the trees, and was gone.",
            "{A} held on to {t}, but the wind was stronger. It tore {t} away and blew it out of sight.",
        ],
    );
    t.line(
        &roles,
        &[
            "\"Come back!\" cried {a}, but then the rain began to fall.",
            "\"We must get out of the rain!\" cried {b}.",
            "\"Run!\" cried {b}. \"The storm is coming!\"",
            "Then big drops of rain fell on them both.",
        ],
    );

    t.paragraph();
    t.go(&[a, b], shelter);
    t.line(
        &roles,
        &[
            "There it was dry.",
            "Inside it was dry and warm.",
            "Inside they shook the water off.",
            "They were wet, but here no rain could reach them.",
        ],
    );
    let (shy, calm) = if t.dice.chance(50) { (a, b) } else { (b, a) };
    let pair = Roles { a: shy, b: calm, ..roles };
    t.feel(&pair, Feeling::Afraid, "the thunder was so loud");
    t.happen(StoryEvent::Help { who: calm, whom: shy });
    t.line(
        &pair,
        &[
            "{B} helped {a} to be brave and sang a song against the thunder.",
            "But {b} helped. \"Hold on to me,\" said {b}. \"It is only noise.\"",
            "{B} helped by telling {a} a long, funny story.",
        ],
    );
    t.line(
        &roles,
        &[
            "{they} waited until the storm was over.",
            "After an hour the rain stopped.",
            "At last the sun came out again.",
        ],
    );
    if t.dice.chance(60) {
        t.feel(&roles, Feeling::Worried, "{a.his} {t.n} was still out there");
    }

    t.paragraph();
    t.line(
        &roles,
        &[
            "It had rained so much that the path was full of mud. {ab} walked slowly.",
            "The rain had made every path wet, so {they} took small steps.",
            "Because of the storm there were branches all over the path, and {they} had to climb over them.",
        ],
    );
    if t.dice.chance(50) {
        t.go(&[a, b], p);
        t.happen(StoryEvent::Search { who: a, thing: light });
        t.line(
            &roles,
            &[
                "{they} looked everywhere, but {t} was not {p.at}.",
                "{they} saw no {t.n} there. \"The wind blew the other way,\" said {b}.",
            ],
        );
    }
    t.go(&[a, b], landed);
    let finder = if t.dice.chance(60) { b } else { a };
    t.happen(StoryEvent::Find { who: finder, thing: light });
    let w = spot;
    t.line(
        &Roles { a: finder, w, ..roles },
        &[
            "There was something {w}. {A} ran to it. It was {t}, wet but whole!",
            "\"Look over there!\" cried {a}. {w} lay {t}, and {a} picked it up.",
            "{A} found {t} {w}. It was only a little dirty.",
        ],
    );
    if finder == b {
        t.happen(StoryEvent::Hand { from: b, to: a, thing: light });
        t.line(&roles, &["{B} handed {t} to {a}.", "{B} shook off the water and handed {t} to {a}."]);
    }
    t.feel(&roles, Feeling::Happy, "the storm had not taken {a.his} {t.n} for good");
    t.line(
        &roles,
        &[
            "Over the hills stood a rainbow. \"After rain comes sun,\" said {b}.",
            "A rainbow stood in the sky, and {ab} looked at it for a long time.",
            "\"What a day!\" said {b}. \"Next time we will look at the sky first,\" said {a}.",
            "\"A storm is not so bad when you have a friend,\" said {a}.",
        ],
    );
    t.render(&roles, "{a} and the storm")
}
