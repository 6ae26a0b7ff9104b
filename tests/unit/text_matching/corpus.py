"""Two corpora of free text, made by rules: pairs that differ in one fact, and pairs that say the same.

* A *mutation* takes a sentence made from a template and changes one slot: a colour, a size, a count, a unit, a
  negation, a prop, a type or a label (quoted, and not). No two values of a slot mean the same.
* A *paraphrase* takes a text of one or two sentences and rewords it by one to three of the rules in `REWORDINGS`: a
  condition moved between front and back, synonyms exchanged, politeness, contractions, numbers as words, the space
  between number and unit, and two that the offline embedder and the gate cannot recognise (passive voice, a relative
  clause), which count against the recall.
"""

import random
import re
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["mutations", "paraphrases"]

SLOTS: Final = {
    "color": ("red", "blue", "green", "black", "white", "#1d4ed8", "#1d4ed9", "#fff", "rgb(0, 0, 0)", "transparent"),
    "size": ("small", "medium", "large", "extra large", "compact", "tall"),
    "count": ("1", "2", "3", "4", "10", "12", "five", "seven"),
    "amount": ("4", "8", "12", "16", "1.5", "15", "-4", "0.5", "100"),
    "unit": ("px", "rem", "em", "%", "vh", "ms", "s"),
    "prop": ("isLoading", "is_loading", "disabled", "isDisabled", "onClick", "onPress", "show", "display", "image"),
    "type": ("button", "card", "input", "modal", "badge", "navbar", "tooltip", "link"),
    "label": ("Save", "Send", "Cancel", "Close", "Show", "Display", "save", "send", "hide", "conceal"),
    "not": ("must", "must not", "may", "may not", "need not", "should never"),
    "part": ("icon", "icons", "title", "subtitle", "border", "divider"),
    "place": ("left", "right", "top", "bottom", "above", "below"),
}
TEMPLATES: Final = (
    "Show a {size} {color} {type} with {count} columns.",
    "The {type} {not} show the {part} when it is loading.",
    'Use a padding of {amount}{unit} and label it "{label}".',
    "Use {amount} {unit} of space between the {part} and the text, labelled {label}.",
    "Add a {prop} prop to the {type}; its {part} is {color}.",
    "While loading, the {type} {not} hide its {part} on the {place}.",
    "Place the {part} at the {place} of the {type}, {amount}{unit} wide, in {color}.",
    "Build a {type} that {not} use {color}, with the prop {prop} and {count} items.",
    "The text says {label}. Make the {type} {size}.",
    "If the request fails, display a {color} {type} called {label} for {amount} {unit}.",
    "Let users open the {type} from the {place} when `{prop}` is set.",
    "Display {count} {part} in {color}, {size} enough for {amount}{unit}.",
)

SAYINGS: Final = (
    "Show a spinner when the form is submitting",
    "Display an error when the request fails",
    "When the list is empty, show a hint",
    "Use 16px padding around the text",
    "Hide the divider while the page is loading",
    "Show two columns on wide screens",
    "Keep the focus ring when the user presses Tab",
    "The card has a title and an icon",
    "Create a card with a picture, a price and a button",
    "Do not show the icon when there is no text",
    "Use a radius of 8 px",
    "Place the close button at the right",
    "Notify the user when the upload is done",
    "Allow keyboard users to open the menu",
    "The badge must show the number of items",
    "Show a red dot when the status is offline",
    'Label the button "Save" and use the primary color',
    "If the name is too long, show three dots",
    "Provide a focus style with 2px width",
    "Change the color when the pointer is over the row",
)


def mutations(number: int, *, seed: int = 7) -> Iterator[tuple[str, str, str]]:
    """Yield the kind of the difference, and two texts that differ in it alone."""
    chance = random.Random(seed)
    for _ in range(number):
        template = chance.choice(TEMPLATES)
        names = re.findall(r"\{(\w+)\}", template)
        values = {name: chance.choice(SLOTS[name]) for name in names}
        kind = chance.choice(names)
        other = chance.choice([value for value in SLOTS[kind] if value != values[kind]])
        yield kind, template.format(**values), template.format(**values | {kind: other})


def paraphrases(number: int, *, seed: int = 11) -> Iterator[tuple[str, str, str]]:
    """Yield the rules that were used, a text and another wording of it."""
    chance = random.Random(seed)
    made = 0
    while made < number:
        text = ". ".join(chance.sample(SAYINGS, chance.choice((1, 1, 2)))) + "."
        reworded, used = text, []
        for rule in chance.sample(REWORDINGS, 3):
            changed = rule(reworded, chance)
            if changed != reworded and len(used) < chance.choice((1, 2, 3)):
                reworded, used = changed, [*used, rule.__name__]
        if used:
            made += 1
            yield "+".join(sorted(used)), text, reworded


def condition_moved(text: str, _chance: random.Random) -> str:
    sentences = text.removesuffix(".").split(". ")
    return ". ".join(map(_moved, sentences)) + "."


def _moved(sentence: str) -> str:
    if found := re.fullmatch(r"(When|If|While) ([^,]+), (.*)", sentence):
        return f"{found[3][0].upper()}{found[3][1:]} {found[1].lower()} {found[2]}"
    if found := re.fullmatch(r"(.*) (when|if|while) (.*)", sentence):
        return f"{found[2].title()} {found[3]}, {found[1][0].lower()}{found[1][1:]}"
    return sentence


EXCHANGED: Final = (
    *(("Show", "Display"), ("Use", "Apply"), ("Create", "Build"), ("Hide", "Conceal"), ("Keep", "Retain")),
    *(("Provide", "Supply"), ("Notify", "Inform"), ("Allow", "Permit"), ("Change", "Modify")),
)


def synonyms_exchanged(text: str, _chance: random.Random) -> str:
    for one, other in EXCHANGED:
        text = re.sub(rf"\b{one}\b", other, text)
    return text


def made_polite(text: str, chance: random.Random) -> str:
    opening = chance.choice(("Please", "Kindly", "Make sure that you", "Please ensure that"))
    return f"{opening} {text[0].lower()}{text[1:]}"


def contracted(text: str, _chance: random.Random) -> str:
    return text.replace("Do not", "Don't").replace("do not", "don't").replace("is not", "isn't")


def numbers_in_words(text: str, _chance: random.Random) -> str:
    return text.replace("two", "2").replace("three", "3")


def units_apart(text: str, _chance: random.Random) -> str:
    return text.replace("8 px", "8px").replace("16px", "16 px").replace("2px", "2 pixels")


def into_passive(text: str, _chance: random.Random) -> str:
    return re.sub(r"^Show (an? [\w ]+?) when", r"\1 is shown when", text)


def into_relative_clause(text: str, _chance: random.Random) -> str:
    return re.sub(r"\ba (spinner|hint|card|radius)\b", r"something that is a \1", text)


REWORDINGS: Final[tuple[Callable[[str, random.Random], str], ...]] = (
    condition_moved,
    synonyms_exchanged,
    made_polite,
    contracted,
    numbers_in_words,
    units_apart,
    into_passive,
    into_relative_clause,
)
