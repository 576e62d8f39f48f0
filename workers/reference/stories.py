"""The wording of the synthetic queries: settings, people, things, and how each event is told.

Owns words only; what happens, and with which numbers, is synthetic.py's. Every template names
its numbers and actors in braces, and each event has several wordings, so that a question can't
be read by one pattern.
"""

from dataclasses import dataclass

PEOPLE = (
    "Anna", "Ben", "Clara", "David", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira",
    "Leo", "Mona", "Nils", "Olga", "Paul", "Rosa", "Samir", "Tara", "Uri", "Vera", "Wim", "Yara",
    "Zoe",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One family of stories: what is counted, and how each event reads.

    `{p}` is who it is about, `{q}` somebody else, `{i}` the things counted, `{n}` a number,
    `{a}` how many packs, `{b}` how many things in each.
    """

    things: tuple[str, ...]
    pack: str
    packs: str
    start: tuple[str, ...]
    gain: tuple[str, ...]
    lose: tuple[str, ...]
    gain_packs: tuple[str, ...]
    lose_packs: tuple[str, ...]
    ask: tuple[str, ...]


COLLECTING = Setting(
    things=("pens", "marbles", "stamps", "cards", "stickers", "beads"),
    pack="box",
    packs="boxes",
    start=("{p} has {n} {i}.", "{p} starts with {n} {i}.", "At first {p} owns {n} {i}."),
    gain=(
        "{p} buys {n} more.",
        "{q} gives {p} {n} {i}.",
        "{p} finds {n} more {i}.",
        "Then {p} wins {n} {i}.",
    ),
    lose=(
        "{p} gives {n} to {q}.",
        "{p} loses {n} of them.",
        "{p} sells {n} {i}.",
        "Then {q} takes {n} {i} from {p}.",
    ),
    gain_packs=(
        "{p} buys {a} boxes of {b} {i}.",
        "{q} sends {p} {a} boxes with {b} {i} in each.",
        "{p} opens {a} new boxes, each holding {b} {i}.",
    ),
    lose_packs=(
        "{p} fills {a} boxes with {b} {i} each and gives them away.",
        "{p} sells {a} boxes of {b} {i}.",
        "{q} borrows {a} boxes with {b} {i} in each from {p}.",
    ),
    ask=("How many {i} does {p} have now?", "How many {i} does {p} have in the end?"),
)

FARMING = Setting(
    things=("apples", "eggs", "pears", "onions", "carrots", "melons"),
    pack="crate",
    packs="crates",
    start=(
        "{p} picks {n} {i}.",
        "In the morning {p} has {n} {i}.",
        "There are {n} {i} in the barn of {p}.",
    ),
    gain=(
        "{p} brings in {n} more.",
        "A neighbour adds {n} {i}.",
        "{q} carries {n} more {i} to {p}.",
        "After the rain {p} gathers {n} more.",
    ),
    lose=(
        "{n} of them go bad.",
        "{p} sells {n} at the market.",
        "{q} eats {n} of the {i}.",
        "{p} throws {n} {i} away.",
    ),
    gain_packs=(
        "{p} loads {a} crates of {b} {i}.",
        "{q} delivers {a} crates with {b} {i} in each.",
        "A cart comes with {a} crates, each holding {b} {i}.",
    ),
    lose_packs=(
        "{p} sends off {a} crates with {b} {i} each.",
        "{q} collects {a} crates of {b} {i}.",
        "Mice spoil {a} crates with {b} {i} in each.",
    ),
    ask=("How many {i} does {p} have left?", "How many {i} does {p} have at the end?"),
)

SAVING = Setting(
    things=("coins", "dollars", "tokens", "points"),
    pack="bag",
    packs="bags",
    start=("{p} has saved {n} {i}.", "{p} starts the week with {n} {i}.", "{p} holds {n} {i}."),
    gain=(
        "{p} earns {n} more.",
        "{p} gets {n} {i} from {q}.",
        "On Monday {p} is paid {n} {i}.",
        "A prize adds {n} {i}.",
    ),
    lose=(
        "{p} spends {n} of them.",
        "{p} pays {q} {n} {i}.",
        "A fine costs {p} {n} {i}.",
        "{p} lends {n} to {q}.",
    ),
    gain_packs=(
        "{p} works {a} days for {b} {i} a day.",
        "{p} is given {a} bags with {b} {i} in each.",
        "{q} pays back {a} bags of {b} {i}.",
    ),
    lose_packs=(
        "{p} buys {a} tickets for {b} {i} each.",
        "{p} rents a boat for {a} days at {b} {i} a day.",
        "{p} hands {q} {a} bags of {b} {i}.",
    ),
    ask=("How many {i} does {p} have now?", "How many {i} are left for {p}?"),
)

SHOPPING = Setting(
    things=("cakes", "books", "lamps", "shirts", "chairs", "mugs"),
    pack="carton",
    packs="cartons",
    start=(
        "The shop of {p} has {n} {i} in stock.",
        "{p} opens a shop with {n} {i}.",
        "{p} counts {n} {i} in the store.",
    ),
    gain=(
        "A delivery brings {n} more.",
        "{p} orders {n} more {i}.",
        "{q} returns {n} {i}.",
        "{n} {i} arrive from another shop.",
    ),
    lose=(
        "Customers buy {n} of them.",
        "{p} sells {n} {i} to {q}.",
        "{n} {i} turn out to be broken.",
        "{p} sends back {n} {i}.",
    ),
    gain_packs=(
        "A truck brings {a} cartons of {b} {i}.",
        "{p} unpacks {a} cartons with {b} {i} in each.",
        "{q} supplies {a} cartons, each holding {b} {i}.",
    ),
    lose_packs=(
        "{p} sells {a} cartons of {b} {i}.",
        "A hotel orders {a} cartons with {b} {i} in each.",
        "{p} gives {a} schools {b} {i} each.",
    ),
    ask=("How many {i} does {p} have now?", "How many {i} are in the shop of {p} at the end?"),
)

SETTINGS = (COLLECTING, FARMING, SAVING, SHOPPING)

MULTIPLY = (
    "Then the number of {i} becomes {n} times as large.",
    "By spring {p} has {n} times as many {i}.",
    "A lucky week multiplies the {i} of {p} by {n}.",
)
DIVIDE = (
    "{p} splits them into {n} equal parts and keeps one part.",
    "{p} shares the {i} equally among {n} people and one of them is {p}.",
    "Only one in every {n} of the {i} stays with {p}.",
)
RECALL_GAIN = (
    "Then {p} gets as many {i} again as there were at the start.",
    "{q} adds as many {i} as {p} had at first.",
)
RECALL_LOSE = (
    "Then {p} gives away as many {i} as there were at the start.",
    "{q} takes as many {i} as {p} had at first.",
)
PACK_FACT = ("Each {pack} holds {b} {i}.", "There are {b} {i} in a {pack}.")
GAIN_KNOWN_PACKS = ("{p} gets {a} {packs} from {q}.", "{a} full {packs} are added for {p}.")
LOSE_KNOWN_PACKS = ("{p} gives {a} {packs} to {q}.", "{a} full {packs} are taken from {p}.")
OTHER_MORE = ("{q} has {n} more {i} than {p}.", "{q} counts {n} {i} more than {p}.")
OTHER_FEWER = ("{q} has {n} fewer {i} than {p}.", "{q} counts {n} {i} less than {p}.")
OTHER_TIMES = ("{q} has {n} times as many {i} as {p}.", "{q} owns {n} times the {i} of {p}.")
OTHER_HANDS_OVER = (
    "{q} had {a} {i}, lost {b} of those and gave the rest to {p}.",
    "{q} owned {a} {i}, kept {b} and handed the others to {p}.",
)
PRICE = (
    "Each one is worth {n} cents. How many cents are the {i} of {p} worth?",
    "{p} sells them all for {n} cents each. How many cents does {p} get?",
)

DISTRACTORS = (
    "{q} is {n} years old.",
    "{q} has {n} balloons.",
    "The walk home takes {n} minutes.",
    "The house of {q} has number {n}.",
    "It is day {n} of the year.",
    "{p} once read a book of {n} pages.",
    "The bus of {q} has {n} seats.",
    "A dog next door is worth {n} dollars.",
)

SAME_AS = (
    "{p} starts with as many {i} as {q} has in the end.",
    "{p} begins with the same number of {i} that {q} ends up with.",
)
TIMES_AS = (
    "{p} starts with {n} times as many {i} as {q} has in the end.",
    "{p} begins with {n} times the number of {i} that {q} ends up with.",
)
TOGETHER = (
    "How many {i} do {people} have together?",
    "How many {i} is that in all for {people}?",
)
TOGETHER_PRICE = (
    "{people} sell all their {i} for {n} cents each. How many cents do they get together?",
    "A dealer buys all the {i} of {people} at {n} cents each. How many cents is that together?",
)
SPLIT_EVENLY = ("{people} put their {i} together and throw {n} away. How many {i} are left?",)
