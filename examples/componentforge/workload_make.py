"""Write workloads, ``python -m componentforge.workload_make``; the same seed gives the same bytes.

A workload is the working day of a team of five that implements a design system: 100 requests. Every seed has the same
number of requests of each kind; the seed decides their order and subjects:

==============  ==  ==================================================================================================
first           12  each of twelve components is generated once with the design's own tokens
edit             4  a designer changes a component, and it is generated again
wish             5  a component is requested with new requirements
words            8  the same requirements in other words
tokens          24  a component is requested with the design tokens of one of six brands
repeat          47  an earlier request is repeated: previews, builds, reviews; recent ones are twice as likely
==============  ==  ==================================================================================================

The first three kinds, 21 requests, are new to every cache, so that the hit rate is at most 79 %; an exact cache alone
answers only repeats. Twenty more repeats follow, the next morning, which do not count.
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

__all__ = ["REPEATS_AFTER", "REQUESTS_BY_KIND", "SEED", "main", "render"]

SEED = 33
"""Seed of the published workload."""

REQUESTS_BY_KIND = {"first": 12, "edit": 4, "wish": 5, "words": 8, "tokens": 24, "repeat": 47}
"""Number of requests of each kind."""

REPEATS_AFTER = 20
"""Number of repeats after the day."""

_GROUP_SIZES = (1, 1, 2, 1, 3, 1, 1, 2, 1, 4)
_USERS = ("ada", "grace", "katherine", "margaret", "radia")
_COMPONENTS = 12
# A repeat is twice as likely to concern one of the last so many requests as an older one.
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
"""Most requested first: the design of rank r is requested in proportion to 1/r (Zipf's law with exponent 1)."""


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
    # Five wordings of the same requirement: original, polite, other contractions, units and articles, other order, and
    # a free paraphrase.
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
class _Subject:
    design: str
    theme: str = "house"
    wish: str = "plain"
    wording: int = 0

    @property
    def wish_name(self) -> str:
        """Name of the requirements in the workload file."""
        return f"{self.wish}.{self.wording + 1}" if self.wording else self.wish


@dataclass(slots=True)
class _Day:
    """Requests so far, without those from before the last edit of their design."""

    random: Random
    asked: list[_Subject] = field(default_factory=list)
    # Only answered requests are repeated with other words or tokens, since a person reacts to a finished component.
    answered: list[_Subject] = field(default_factory=list)
    unseen: list[str] = field(default_factory=lambda: list(_POPULARITY[:_COMPONENTS]))
    edits: int = 0

    def draw(self, kind: str) -> _Subject | None:
        """Return a random request of a kind, None if no request of this kind is possible yet."""
        made: dict[str, Any] = {
            "first": self._first,
            "edit": self._edited,
            "wish": self._with_new_wish,
            "words": self._reworded,
            "tokens": self._rethemed,
            "repeat": self._repeated,
        }
        choices = made[kind]()
        if not choices:
            return None
        subject: _Subject = self.random.choices(choices, [self._weight(choice) for choice in choices])[0]
        return subject

    def _weight(self, subject: _Subject) -> float:
        recent = 2.0 if subject in self.asked[-_RECENT:] else 1.0
        return recent / (1 + _POPULARITY.index(subject.design))

    def _first(self) -> list[_Subject]:
        return [_Subject(design) for design in self.unseen]

    def _edited(self) -> list[_Subject]:
        return list(dict.fromkeys(_Subject(subject.design) for subject in self.asked))

    def _with_new_wish(self) -> list[_Subject]:
        known = {(subject.design, subject.wish) for subject in self.asked}
        designs = dict.fromkeys(subject.design for subject in self.asked)
        return [_Subject(design, wish=wish) for design in designs for wish in _WISHES if (design, wish) not in known]

    def _reworded(self) -> list[_Subject]:
        known = set(self.asked)
        said = [subject for subject in self.answered if subject.wish != "plain" and subject.theme == "house"]
        found = [_Subject(one.design, wish=one.wish, wording=number) for one in said for number in range(5)]
        return sorted({one for one in found if one not in known}, key=repr)

    def _rethemed(self) -> list[_Subject]:
        known = set(self.asked)
        house = [subject for subject in self.answered if subject.theme == "house" and subject.wording == 0]
        found = [_Subject(one.design, theme, one.wish) for one in house for theme in _THEMES if theme != "house"]
        return sorted({one for one in found if one not in known}, key=repr)

    def _repeated(self) -> list[_Subject]:
        return list(dict.fromkeys(self.asked))


def render(seed: int = SEED) -> str:
    """Return a workload as JSON text."""
    steps = list(_steps(Random(seed)))
    workload = {
        "combined_hit_rate": "(L1 + L2 + L3 + collapsed) / answered, over the first 100 requests; L0 answers Figma "
        "calls, not requests, and does not count",
        "wrong_answer": "component.tsx, stories.tsx, tokens.json or requirements.json differs in any byte from the "
        "answer of the pipeline without caches to the same request at the same step",
        "seed": seed,
        "designs": _designs(),
        "themes": _THEMES,
        "wishes": _wishes(),
        "steps": steps,
    }
    text = json.dumps(workload, ensure_ascii=False)
    # One request per line, so that a changed request is one changed line of a diff.
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
            said[_Subject("", wish=wish, wording=number).wish_name] = structured | {"notes": notes}
    return said


def _steps(random: Random) -> Iterator[dict[str, Any]]:
    """Yield edits and groups of distinct concurrent requests."""
    day, sizes = _Day(random), cycle(_GROUP_SIZES)
    group: dict[_Subject, dict[str, str]] = {}
    size = next(sizes)
    for kind, subject in _draw_all(day, random):
        # Close the group before an edit, because concurrent requests must see the same design.
        if group and (kind == "edit" or subject in group or len(group) == size):
            yield {"generate": list(group.values())}
            day.answered += group
            group, size = {}, next(sizes)
        if kind == "edit":
            day.answered = [asked for asked in day.answered if asked.design != subject.design]
            yield {"edit": _edit(subject, day)}
        group[subject] = _request(subject, random)
    yield {"generate": list(group.values())}


def _draw_all(day: _Day, random: Random) -> Iterator[tuple[str, _Subject]]:
    kinds = [kind for kind, count in REQUESTS_BY_KIND.items() for _ in range(count)]
    random.shuffle(kinds)
    # Kinds that are not possible yet are postponed. A kind that became impossible, because its component was edited,
    # is replaced by a repeat.
    while kinds:
        kind, subject = next(
            ((kind, subject) for kind in kinds if (subject := day.draw(kind)) is not None), ("repeat", None)
        )
        if subject is None:
            kinds[0], subject = "repeat", day.asked[-1]
        kinds.remove(kind)
        if kind == "edit":
            day.asked = [asked for asked in day.asked if asked.design != subject.design]
        if kind == "first":
            day.unseen.remove(subject.design)
        day.asked.append(subject)
        yield kind, subject
    for _ in range(REPEATS_AFTER):
        if (subject := day.draw("repeat")) is not None:
            yield "repeat", subject


def _request(subject: _Subject, random: Random) -> dict[str, str]:
    user = random.choice(_USERS)
    session = f"{user}-{random.randint(1, 3)}"
    return {
        "design": subject.design,
        "theme": subject.theme,
        "wish": subject.wish_name,
        "user": user,
        "session": session,
    }


def _edit(subject: _Subject, day: _Day) -> dict[str, str]:
    number = day.edits
    day.edits += 1
    return {"design": subject.design, "text": _TEXTS[number % len(_TEXTS)], "fill": _FILLS[number % len(_FILLS)]}


def main() -> None:
    """Write the published workload or one with another seed."""
    parser = argparse.ArgumentParser(description="Write a workload: a working day of 100 requests and 20 repeats.")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the random choices")
    parser.add_argument("--output", type=Path, default=PATH, help="the file to write")
    arguments = parser.parse_args()
    arguments.output.write_text(render(arguments.seed), encoding="utf-8")
    print(f"{arguments.output.name}: {sum(REQUESTS_BY_KIND.values()) + REPEATS_AFTER} requests, seed {arguments.seed}")


if __name__ == "__main__":
    main()
