//! The words of the world: names, kinds, places, objects. Small on purpose, so that a small model can learn them all.

/// How a person is spoken of.
pub(super) struct PersonKind {
    pub(super) noun: &'static str,
    pub(super) animal: bool,
    pub(super) female: Option<bool>, // None: either
    pub(super) works_at: Option<&'static str>,
}

const fn animal(noun: &'static str) -> PersonKind {
    PersonKind { noun, animal: true, female: None, works_at: None }
}

pub(super) const ANIMALS: &[PersonKind] = &[
    animal("rabbit"),
    animal("fox"),
    animal("bear"),
    animal("mouse"),
    animal("hedgehog"),
    animal("squirrel"),
    animal("badger"),
    animal("otter"),
    animal("duck"),
    animal("goat"),
    animal("turtle"),
    animal("cat"),
];

pub(super) const CHILDREN: &[PersonKind] = &[
    PersonKind { noun: "girl", animal: false, female: Some(true), works_at: None },
    PersonKind { noun: "boy", animal: false, female: Some(false), works_at: None },
];

const fn worker(noun: &'static str, works_at: &'static str) -> PersonKind {
    PersonKind { noun, animal: false, female: None, works_at: Some(works_at) }
}

pub(super) const WORKERS: &[PersonKind] = &[
    worker("baker", "the bakery"),
    worker("farmer", "the farm"),
    worker("miller", "the old mill"),
    worker("teacher", "the school"),
    worker("sailor", "the harbor"),
    worker("gardener", "the garden"),
    worker("shepherd", "the meadow"),
    worker("painter", "the village square"),
];

pub(super) const SHE: &[&str] = &[
    "Mia", "Lily", "Anna", "Rosa", "Nora", "Ella", "Ruby", "Clara", "Ivy", "Hazel", "Molly", "Daisy", "Poppy", "Greta",
    "Tilly", "Emma", "Olive", "Freya", "Wendy", "Lucy",
];

pub(super) const HE: &[&str] = &[
    "Tom", "Ben", "Max", "Leo", "Sam", "Finn", "Oscar", "Theo", "Hugo", "Jack", "Milo", "Noah", "Peter", "Rufus",
    "Otto", "Felix", "Robin", "Toby", "Henry", "Arlo",
];

pub(super) const CHARACTERS: &[&str] = &[
    "kind", "brave", "clever", "shy", "curious", "cheerful", "gentle", "honest", "quiet", "patient", "careful",
    "friendly", "proud", "merry",
];

pub(super) const LIKES: &[&str] = &[
    "singing songs",
    "painting pictures",
    "counting the stars",
    "telling jokes",
    "jumping in puddles",
    "climbing trees",
    "picking flowers",
    "reading old books",
    "watching the clouds",
    "dancing in the rain",
    "collecting shells",
    "building towers",
    "listening to the birds",
    "drinking warm milk",
    "eating ripe plums",
    "eating fresh bread",
    "drawing maps",
    "making paper boats",
];

/// A place as it stands in the tables.
pub(super) struct Site {
    pub(super) name: &'static str,
    pub(super) preposition: &'static str,
    pub(super) indoor: bool,
    pub(super) spots: [&'static str; 3],
}

const fn outside(name: &'static str, preposition: &'static str, spots: [&'static str; 3]) -> Site {
    Site { name, preposition, indoor: false, spots }
}
const fn inside(name: &'static str, preposition: &'static str, spots: [&'static str; 3]) -> Site {
    Site { name, preposition, indoor: true, spots }
}

pub(super) const SITES: &[Site] = &[
    outside("the garden", "in", ["under a rose bush", "behind the watering can", "between two flower pots"]),
    outside("the meadow", "in", ["in the tall grass", "beside a gray stone", "behind a thorn bush"]),
    outside("the forest", "in", ["behind an old oak", "under a pile of leaves", "inside a hollow log"]),
    outside("the river", "by", ["between two wet rocks", "under a willow", "beside the stepping stones"]),
    outside("the hill", "on", ["behind a round rock", "beside a lonely pine", "under a fern"]),
    outside("the lake", "by", ["in the reeds", "under an old boat", "beside a wooden post"]),
    outside("the orchard", "in", ["under an apple tree", "behind a ladder", "beside the stone wall"]),
    outside("the pond", "by", ["behind the lilies", "on a mossy stone", "under a little bench"]),
    outside("the market", "at", ["under a table", "behind a barrel", "between two crates"]),
    outside("the village square", "in", ["behind the fountain", "under a long bench", "beside the lamp post"]),
    outside("the bridge", "by", ["under the first arch", "behind the railing", "beside the sign"]),
    outside("the beach", "on", ["in the warm sand", "behind a sand castle", "under a big shell"]),
    outside("the harbor", "at", ["under a fishing net", "behind a coil of rope", "beside an anchor"]),
    outside("the farm", "at", ["behind the fence", "under the cart", "beside the well"]),
    inside("the barn", "in", ["under the hay", "behind a sack of corn", "beside the ladder"]),
    inside("the old mill", "at", ["behind the big wheel", "under the stairs", "between two sacks of flour"]),
    inside("the library", "in", ["between two thick books", "under a reading chair", "behind a tall shelf"]),
    inside("the school", "at", ["under a desk", "behind the door", "beside the blackboard"]),
    inside("the cave", "in", ["behind a tall stone", "on a narrow ledge", "beside a puddle"]),
    inside("the bakery", "in", ["under the counter", "behind the oven", "beside a sack of sugar"]),
];

pub(super) const COLORS: &[&str] =
    &["red", "blue", "green", "yellow", "white", "brown", "purple", "orange", "black", "golden", "silver", "pink"];

/// Things one carries, plays with and may lose.
pub(super) const TOYS: &[&str] = &[
    "ball", "kite", "doll", "drum", "whistle", "hat", "scarf", "umbrella", "book", "bell", "cup", "blanket", "flute",
    "marble", "ribbon", "toy boat", "puppet", "ring", "key", "button",
];

/// Things that wind can carry.
pub(super) const LIGHT: &[&str] = &["kite", "hat", "scarf", "ribbon", "balloon", "map", "letter"];

/// Things that two can want at once and that can break.
pub(super) const FRAGILE: &[&str] = &["kite", "drum", "toy boat", "puppet", "flute", "wagon"];

/// Things worth hiding.
pub(super) const TREASURES: &[&str] = &["box", "bottle", "coin", "crown", "bell", "ring", "key", "shell"];

pub(super) const NUMBERS: &[&str] =
    &["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
