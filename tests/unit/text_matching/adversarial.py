"""Pairs of texts that ask for different things, made to break one rule of the value gate each.

Every generator takes a sentence of `SENTENCES`, or fills a template, and changes its meaning in the way that the rule
it attacks would overlook if it were careless: it swaps, negates, re-orders, re-attaches, or changes a number, a unit or
a part of speech. A pair is yielded only if its texts differ.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["ATTACKS", "pairs"]

NOUNS: Final = ("button", "card", "icon", "badge", "panel", "avatar", "divider", "spinner", "footer", "toolbar", "chip")
ADJECTIVES: Final = ("red", "gray", "small", "wide", "round", "flat", "muted", "bold", "sticky", "dense")
PREPOSITIONS: Final = ("on", "in", "above", "below", "behind", "beside", "under", "over")
VERBS: Final = ("Show", "Hide", "Add", "Use", "Keep", "Remove", "Highlight", "Align", "Animate", "Center")
CONDITIONS: Final = (
    "the list is empty",
    "the upload fails",
    "a row is selected",
    "the session ends",
    "two filters are active",
    "the cart holds no items",
)
PERSONS: Final = ("users", "the user", "guests", "the admin", "visitors", "customers")
UNITS: Final = ("px", "rem", "em", "%", "ms", "s", "vh")

Pair = tuple[str, str]


def _sentence(chance: random.Random) -> str:
    one, two = chance.sample(NOUNS, 2)
    return chance.choice(
        (
            f"{chance.choice(VERBS)} the {chance.choice(ADJECTIVES)} {one} {chance.choice(PREPOSITIONS)} the {two}.",
            f"The {one} is {chance.choice(ADJECTIVES)} and the {two} is {chance.choice(ADJECTIVES)}.",
            f"{chance.choice(VERBS)} a {one} with a {two}.",
            f"The {one} must not cover the {two}.",
            f"{chance.choice(VERBS)} {chance.randint(2, 12)} {one}s in {chance.randint(2, 12)} {two}s.",
        )
    )


def swapped_nouns(chance: random.Random) -> Pair:
    """Two things change places around a preposition."""
    one, two, third = chance.sample(NOUNS, 3)
    place = chance.choice(PREPOSITIONS)
    form = chance.choice(
        ("Show a {} {p} a {} and a {}.", "The {} {p} the {} opens the {}.", "Use a {} {p} the {}, {}.")
    )
    return form.format(one, two, third, p=place), form.format(two, one, third, p=place)


def reordered_list(chance: random.Random) -> Pair:
    """The order of a list of columns, steps or parts says how they follow each other."""
    members = [f"{chance.choice(('a', 'an', 'the'))} {noun}" for noun in chance.sample(NOUNS, 3)]
    other = chance.choice([list(order) for order in itertools.permutations(members) if list(order) != members])
    form = chance.choice(("The columns are {}, {} and {}.", "From left to right: {}, {}, {}.", "Add {}, {} and {}."))
    return form.format(*members), form.format(*other)


def reordered_sentences(chance: random.Random) -> Pair:
    """Orders are steps."""
    one, two = _sentence(chance), _sentence(chance)
    return f"{one} {two}", f"{two} {one}"


def moved_condition(chance: random.Random) -> Pair:
    """A condition between two sentences belongs to the one that it stands in."""
    one, two = chance.sample(NOUNS, 2)
    condition = chance.choice(CONDITIONS)
    word = chance.choice(("When", "If", "While", "Unless"))
    return chance.choice(
        (
            (
                f"Open the {one}. {word} {condition}, load the {two}.",
                f"{word} {condition}, load the {two}. Open the {one}.",
            ),
            (
                f"Open the {one} {word.lower()} {condition}. Load the {two}.",
                f"Open the {one}. Load the {two} {word.lower()} {condition}.",
            ),
            (
                f"{word} {condition}, hide the {one}; show the {two}.",
                f"{word} {condition}, hide the {one}. Show the {two}.",
            ),
            (
                f"Show the {one} and hide the {two} {word.lower()} {condition}.",
                f"{word} {condition}, show the {one} and hide the {two}.",
            ),
        )
    )


def indirect_question(chance: random.Random) -> Pair:
    """Behind some verbs and persons `when` and `if` begin a question and no condition."""
    condition = chance.choice(CONDITIONS)
    word = chance.choice(("when", "if"))
    verb = chance.choice(("Check", "Indicate", "Say", "Announce", "Detect", "Ask", "Log", "Explain"))
    order = chance.choice((verb, f"Show {chance.choice(PERSONS)}", f"Tell {chance.choice(PERSONS)}", f"{verb} clearly"))
    return f"{order} {word} {condition}.", f"{word.title()} {condition}, {order[0].lower()}{order[1:]}."


def attached_condition(chance: random.Random) -> Pair:
    """A condition at the end may belong to a part of the sentence; in front it belongs to all of it."""
    one, two = chance.sample(NOUNS, 2)
    condition = chance.choice(CONDITIONS)
    link = chance.choice(
        ("that opens a", "with a", "to close the", "showing a", "for the", "which hides the", "used as a")
    )
    return f"Show a {one} {link} {two} when {condition}.", f"When {condition}, show a {one} {link} {two}."


def modal_as_condition(chance: random.Random) -> Pair:
    """`should` in front is a condition."""
    one, two = chance.sample(NOUNS, 2)
    return f"The {one} must be empty, hide the {two}.", f"Should the {one} be empty, hide the {two}."


def changed_modal(chance: random.Random) -> Pair:
    """Duty, advice and permission differ, and so does each from none."""
    one, two = chance.sample(NOUNS, 2)
    modals = ["must ", "should ", "may ", "must not ", "need not ", "shall ", "can ", ""]
    first, second = chance.sample(modals, 2)
    form = "The {one} {modal}cover the {two}."
    return form.format(one=one, two=two, modal=first), form.format(one=one, two=two, modal=second)


def added_word(chance: random.Random) -> Pair:
    """A small word changes the order."""
    words = _sentence(chance).removesuffix(".").split()
    word = chance.choice(
        ("also", "only", "not", "never", "almost", "even", "no", "other", "too", "again", "a few", "few")
    )
    place = chance.randint(1, len(words) - 1)
    return " ".join(words) + ".", " ".join([*words[:place], word, *words[place:]]) + "."


def changed_article(chance: random.Random) -> Pair:
    """`few` and `a few`, `a` and `the`, one thing and every thing."""
    one, two = chance.sample(NOUNS, 2)
    first, second = chance.sample(
        ("few", "a few", "little", "a little", "the", "every", "no", "any", "most", "the most"), 2
    )
    return f"Show {first} {one}s in the {two}.", f"Show {second} {one}s in the {two}."


def with_is_not_has(chance: random.Random) -> Pair:
    """A phrase with `with` belongs to its neighbour."""
    one, two, third = chance.sample(NOUNS, 3)
    return chance.choice(
        (
            (f"The {one} has {two}s with {third}s.", f"The {one} with {two}s has {third}s."),
            (f"The {one} has a {two}.", f"The {one} with a {two}."),
            (f"Show a {one} having a {two}.", f"Show a {one} with a {two}."),
        )
    )


def part_of_speech(chance: random.Random) -> Pair:
    """A verb in one place is a name, a participle or a noun in another."""
    noun = chance.choice(NOUNS)
    return chance.choice(
        (
            (f"Use the upcoming shows {noun}.", f"Use the upcoming presents {noun}."),
            ("Create button.", "Build button."),
            (f"Use the loading {noun}.", f"Use the load {noun}."),
            ("Use the allow list.", "Use the permit list."),
            (f"Align the show {noun}.", f"Align the display {noun}."),
            (f"The {noun} shows a display.", f"The {noun} displays a show."),
            (f"Add a hide {noun}.", f"Add a conceal {noun}."),
            (f"Keep the notify {noun}.", f"Keep the inform {noun}."),
            (f"A {noun} to use.", f"A {noun} to apply."),
            ("Show the user when the shop opens.", "Display the user when the shop opens."),
        )
    )


def changed_number(chance: random.Random) -> Pair:
    """Numbers and their units."""
    noun, unit, other = chance.choice(NOUNS), *chance.sample(UNITS, 2)
    one, two = chance.sample(range(1, 100), 2)
    return chance.choice(
        (
            (f"Use {one} {unit} around the {noun}.", f"Use {two} {unit} around the {noun}."),
            (f"Use {one}{unit} around the {noun}.", f"Use {one}{other} around the {noun}."),
            (f"Use -{one} {unit} here.", f"Use {one} {unit} here."),
            (f"Use {one}.{two} rem.", f"Use {one}{two} rem."),
            (f"Show version 1.{one}0.", f"Show version 1.{one}."),
            (f"Show {one},{two:03} rows.", f"Show {one}, {two:03} rows."),
            (f"Show {one}-{two} rows.", f"Show {one}, -{two} rows."),
        )
    )


def number_word_as_name(chance: random.Random) -> Pair:
    """A number word behind a noun is a name, and `one` is a pronoun."""
    noun = chance.choice(NOUNS)
    word, digit = chance.choice((("two", "2"), ("three", "3"), ("one", "1")))
    form = chance.choice((f'The text says "{noun} {{}}".', f"Label it {{}} {noun}s.", f"Use the {noun} called {{}}."))
    return form.format(word), form.format(digit)


def changed_name(chance: random.Random) -> Pair:
    """Labels, names and quotations count as they are spelt."""
    noun = chance.choice(NOUNS)
    one, other = chance.choice(
        (
            ("Save", "save"),
            ("Don't", "Do not"),
            ("colour", "color"),
            ("16 px", "16px"),
            ("two", "2"),
            ("a / b", "a/b"),
            ("Hide", "Conceal"),
            ("please wait", "wait"),
            ("It's on", "It is on"),
            ("Go!", "Go"),
            ("5 s", "5 seconds"),
        )
    )
    form = chance.choice(
        (
            f'Show "{{}}" in the {noun}.',
            f"Label the {noun} {{}} now.",
            f"The title of the {noun} is {{}} here.",
            "Text: {} there.",
            f"Call the {noun} `{{}}`.",
        )
    )
    return form.format(one), form.format(other)


def changed_punctuation(chance: random.Random) -> Pair:
    """Signs that carry a meaning."""
    one, two = chance.sample(NOUNS, 2)
    return chance.choice(
        (
            (f"Show the {one}.", f"Show the {one}?"),
            ("Show Loading...", "Show Loading."),
            (f"Show the {one}, {two}.", f"Show the {one} {two}."),
            (f"{one} > {two}", f"{one} < {two}"),
            (f"Show the {one}\n{two}s", f"Show the {one}. {two}s"),
            (f"re-send the {one}", f"resend the {one}"),
            (f"Could you see the {one}?", f"See the {one}."),
        )
    )


def scoped_order(chance: random.Random) -> Pair:
    """`only` and `never` limit what they stand before."""
    noun = chance.choice(NOUNS)
    condition = chance.choice(CONDITIONS)
    return chance.choice(
        (
            (f"Only show the {noun} when {condition}.", f"When {condition}, only show the {noun}."),
            (f"Show the {noun} only when {condition}.", f"When {condition}, show the {noun}."),
            (f"Show only the {noun} when {condition}.", f"Show the {noun} only when {condition}."),
            (f"Show the {noun} if {condition}.", f"Show the {noun} when {condition}."),
            (f"Show the {noun} unless {condition}.", f"Show the {noun} if {condition}."),
        )
    )


ATTACKS: Final[tuple[Callable[[random.Random], Pair], ...]] = (
    swapped_nouns,
    reordered_list,
    reordered_sentences,
    moved_condition,
    indirect_question,
    attached_condition,
    modal_as_condition,
    changed_modal,
    added_word,
    changed_article,
    with_is_not_has,
    part_of_speech,
    changed_number,
    number_word_as_name,
    changed_name,
    changed_punctuation,
    scoped_order,
)


def pairs(attack: Callable[[random.Random], Pair], number: int, *, seed: int) -> Iterator[Pair]:
    """Yield `number` pairs of an attack, in both directions and also inside a longer text."""
    chance = random.Random(f"{attack.__name__} {seed}")
    for turn in range(number):
        one, other = attack(chance)
        if re.sub(r"\s", " ", one) == re.sub(r"\s", " ", other):
            continue
        if turn % 3 == 1:
            before = _sentence(chance)
            one, other = f"{before} {one}", f"{before} {other}"
        yield (one, other) if turn % 2 else (other, one)
