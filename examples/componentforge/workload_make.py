"""Writes workloads: ``python -m componentforge.workload_make``; the same seed gives the same bytes.

A day of a team of five that brings a design system into code, as 100 requests drawn as cards from a deck that is the
same for every seed; the seed decides their order and what each is about. Why these cards:

==============  ==  ==================================================================================================
first time      12  each of twelve components is generated once in the design's own tokens
edited design    4  a designer changes a component, and it is generated again
new wish         5  a component is asked for with requirements that nobody had for it
other words      8  the same requirements in the words of somebody else; most are pasted from a ticket and so repeats
other tokens    24  a known component in the tokens of a brand: each of six brands wants the popular components
repeat          47  what was asked before: previews, builds, reviews, colleagues; recent things more than old ones
==============  ==  ==================================================================================================

The first 21 are new to any cache, so that 79 % is the most that can be reached, and an exact cache alone answers the
repeats only. Twenty repeats of the next morning follow, which no hit rate counts.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

from componentforge.designs import FILES, load
from componentforge.workload import PATH

__all__ = ["DECK", "MORNING", "SEED", "main", "render"]

SEED = 33
"""Of the published file."""

DECK = {"first": 12, "edit": 4, "wish": 5, "words": 8, "tokens": 24, "repeat": 47}
"""How many cards of each kind a day has."""

MORNING = 20
"""How many repeats follow it."""

_GROUP_SIZES = (1, 1, 2, 1, 3, 1, 1, 2, 1, 4)
_USERS = ("ada", "grace", "katherine", "margaret", "radia")
_COMPONENTS = 12
# A repeat is of one of the last so many things twice as often as of any older one.
_RECENT = 8

_POPULARITY = (
    "Button/Action",
    "Card/Product",
    "Input/Text field",
    "Badge/Status",
    "Modal/Confirm",
    "Navbar/Main",
    "Button/Checkout",
    "Card/Article",
    "Card/Pricing",
    "Badge/Discount",
    "Input/Search",
    "Navbar/Store",
    "Modal/Cart",
    "Button/Upload",
    "Card/Review",
    "Badge/Stock",
)
"""The most asked first: the design of rank r is asked in proportion to 1/r (Zipf's law with exponent 1)."""


def _color(value: str) -> dict[str, str]:
    return {"$type": "color", "$value": value}


def _radius(value: str) -> dict[str, Any]:
    return {"radius": {"corner": {"$type": "dimension", "$value": value}}}


_THEMES: dict[str, Any] = {
    "house": {},
    "midnight": {"color": {"background": _color("#0b1120"), "text": _color("#f8fafc")}},
    "forest": {"color": {"background": _color("#14532d"), "text": _color("#f0fdf4")}},
    "rose": {"color": {"background": _color("#9f1239")}},
    "ink": {"color": {"text": _color("#1c1917")}},
    "rounded": _radius("20px"),
    "square": _radius("0px"),
}
_WISHES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    # The first wording, then a polite one, one typed anew (contractions, units, articles), one in another order, and
    # one that says it freely, which nothing but a reader could tell to be the same.
    "async": (
        {"states": ["loading"]},
        (
            "The action may take seconds; show that it is loading.",
            "The action may take seconds; please show that it is loading.",
            "The action may take seconds. Show that it's loading.",
            "Show that it is loading; the action may take seconds.",
            "While the action runs, show that it is loading.",
        ),
    ),
    "tracked": (
        {"events": ["onImpression"]},
        (
            "Report when it is first seen.",
            "Please report when it is first seen.",
            "Report when it's first seen.",
            "When it is first seen, report.",
            "Report the first time that it is seen.",
        ),
    ),
    "plain_words": (
        {},
        (
            "Use short labels and no icons.",
            "Please use short labels and no icons.",
            "Use the short labels and no icons.",
            "Use no icons and short labels.",
            "Short labels, no icons.",
        ),
    ),
    "touch": (
        {"props": ["large"]},
        (
            "It is used on tablets in a warehouse; targets must be at least 44 px high.",
            "It is used on tablets in a warehouse; please make targets at least 44 px high.",
            "It's used on tablets in a warehouse; targets must be at least 44px high.",
            "Targets must be at least 44 px high; it is used on tablets in a warehouse.",
            "For tablets in a warehouse: make targets 44 px high or more.",
        ),
    ),
}
_TEXTS = ("Save all", "Stoneware mug", "Live", "Business email", "Learn more", "Reserve", "New arrivals", "Try again")
_FILLS = ("#1e40af", "#fafaf9", "#e2e8f0", "#334155", "#1d4ed8", "#0f766e", "#7c2d12", "#f5f3ff")


@dataclass(frozen=True, slots=True)
class _Question:
    design: str
    theme: str = "house"
    wish: str = "plain"
    wording: int = 0

    @property
    def name(self) -> str:
        """Of its requirements in the file."""
        return f"{self.wish}.{self.wording + 1}" if self.wording else self.wish


@dataclass(slots=True)
class _Day:
    """What has been asked of the designs as they are now."""

    random: Random
    asked: list[_Question] = field(default_factory=list)
    answered: list[_Question] = field(default_factory=list)
    """Those of them that are not being asked at this moment: nobody re-words or re-themes what is not there yet."""
    unseen: list[str] = field(default_factory=lambda: list(_POPULARITY[:_COMPONENTS]))
    edits: int = 0

    def draw(self, kind: str) -> _Question | None:
        """Return a question of that kind; None where there cannot be one yet."""
        made: dict[str, Any] = {
            "first": self._first,
            "edit": self._edited,
            "wish": self._wished,
            "words": self._reworded,
            "tokens": self._rethemed,
            "repeat": self._repeated,
        }
        choices = made[kind]()
        if not choices:
            return None
        question: _Question = self.random.choices(choices, [self._weight(choice) for choice in choices])[0]
        return question

    def _weight(self, question: _Question) -> float:
        recent = 2.0 if question in self.asked[-_RECENT:] else 1.0
        return recent / (1 + _POPULARITY.index(question.design))

    def _first(self) -> list[_Question]:
        return [_Question(design) for design in self.unseen]

    def _edited(self) -> list[_Question]:
        return list(dict.fromkeys(_Question(question.design) for question in self.asked))

    def _wished(self) -> list[_Question]:
        known = {(question.design, question.wish) for question in self.asked}
        designs = dict.fromkeys(question.design for question in self.asked)
        return [_Question(design, wish=wish) for design in designs for wish in _WISHES if (design, wish) not in known]

    def _reworded(self) -> list[_Question]:
        known = set(self.asked)
        said = [question for question in self.answered if question.wish != "plain" and question.theme == "house"]
        found = [_Question(one.design, wish=one.wish, wording=number) for one in said for number in range(5)]
        return sorted({one for one in found if one not in known}, key=repr)

    def _rethemed(self) -> list[_Question]:
        known = set(self.asked)
        house = [question for question in self.answered if question.theme == "house" and question.wording == 0]
        found = [_Question(one.design, theme, one.wish) for one in house for theme in _THEMES if theme != "house"]
        return sorted({one for one in found if one not in known}, key=repr)

    def _repeated(self) -> list[_Question]:
        return list(dict.fromkeys(self.asked))


def render(seed: int = SEED) -> str:
    """Return a workload as JSON text."""
    steps = list(_steps(Random(seed)))
    workload = {
        "combined_hit_rate": "(L1 + L2 + L3 + collapsed) / answered, over the first 100 requests; L0 is no answer to a "
        "request and does not count",
        "wrong_answer": "component.tsx, stories.tsx, tokens.json or requirements.json is not, byte for byte, what the "
        "pipeline without any cache answers to the same request at that moment",
        "seed": seed,
        "designs": _designs(),
        "themes": _THEMES,
        "wishes": _wishes(),
        "steps": steps,
    }
    text = json.dumps(workload, ensure_ascii=False)
    # One request a line, so that people can read it and a changed request is one changed line.
    return re.sub(r'(\{"(?:design"|generate|edit|component_type|plain))', r"\n\1", text) + "\n"


def _designs() -> dict[str, Any]:
    found = {
        node["name"]: {
            "component_type": node["name"].partition("/")[0].lower(),
            "figma_key": key,
            "node_id": node["id"],
        }
        for key in FILES
        for page in load(key)["document"]["children"]
        for node in page["children"]
    }
    return {name: found[name] for name in _POPULARITY[:_COMPONENTS]}


def _wishes() -> dict[str, Any]:
    said: dict[str, Any] = {"plain": {}}
    for wish, (structured, wordings) in _WISHES.items():
        for number, notes in enumerate(wordings):
            said[_Question("", wish=wish, wording=number).name] = structured | {"notes": notes}
    return said


def _steps(random: Random) -> Iterator[dict[str, Any]]:
    """Yield edits, and groups of requests that are sent at once; no group asks the same twice."""
    day, sizes = _Day(random), cycle(_GROUP_SIZES)
    group: dict[_Question, dict[str, str]] = {}
    size = next(sizes)
    for kind, question in _cards(day, random):
        # What is being asked is asked of the design as it was.
        if group and (kind == "edit" or question in group or len(group) == size):
            yield {"generate": list(group.values())}
            day.answered += group
            group, size = {}, next(sizes)
        if kind == "edit":
            day.answered = [asked for asked in day.answered if asked.design != question.design]
            yield {"edit": _edit(question, day)}
        group[question] = _order(question, random)
    yield {"generate": list(group.values())}


def _cards(day: _Day, random: Random) -> Iterator[tuple[str, _Question]]:
    deck = [kind for kind, count in DECK.items() for _ in range(count)]
    random.shuffle(deck)
    # The day begins with the first component; a card that cannot be played yet waits for the next one that can.
    # One that can never be played, because its component was edited, is a repeat.
    while deck:
        kind, question = next(
            ((kind, question) for kind in deck if (question := day.draw(kind)) is not None), ("repeat", None)
        )
        if question is None:
            deck[0], question = "repeat", day.asked[-1]
        deck.remove(kind)
        if kind == "edit":
            day.asked = [asked for asked in day.asked if asked.design != question.design]
        if kind == "first":
            day.unseen.remove(question.design)
        day.asked.append(question)
        yield kind, question
    for _ in range(MORNING):
        if (question := day.draw("repeat")) is not None:
            yield "repeat", question


def _order(question: _Question, random: Random) -> dict[str, str]:
    user = random.choice(_USERS)
    session = f"{user}-{random.randint(1, 3)}"
    return {"design": question.design, "theme": question.theme, "wish": question.name, "user": user, "session": session}


def _edit(question: _Question, day: _Day) -> dict[str, str]:
    number = day.edits
    day.edits += 1
    return {"design": question.design, "text": _TEXTS[number % len(_TEXTS)], "fill": _FILLS[number % len(_FILLS)]}


def main() -> None:
    """Write the published file, or another day."""
    parser = argparse.ArgumentParser(description="Write a workload: a team's day of 100 generations, and a morning.")
    parser.add_argument("--seed", type=int, default=SEED, help="another day of the same kind")
    parser.add_argument("--output", type=Path, default=PATH, help="the file that is written")
    asked = parser.parse_args()
    asked.output.write_text(render(asked.seed), encoding="utf-8")
    print(f"{asked.output.name}: {sum(DECK.values()) + MORNING} generations, seed {asked.seed}")


if __name__ == "__main__":
    main()
