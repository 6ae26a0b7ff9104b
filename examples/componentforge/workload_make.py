"""Writes the workload: ``python -m componentforge.workload_make``; the same input gives the same bytes."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from random import Random
from typing import Any

from componentforge.designs import FILES, load
from componentforge.workload import PATH

__all__ = ["main", "render"]

_SEED = 33
_GENERATIONS = 120
_GROUP_SIZES = (1, 1, 2, 1, 4, 1, 1, 3, 1, 6)
_EDITS_AFTER_GROUP = (12, 21, 30, 39, 48)
_USERS = ("ada", "grace", "katherine", "margaret", "radia")

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

_THEMES: dict[str, Any] = {
    "house": {},
    "midnight": {
        "color": {
            "background": {"$type": "color", "$value": "#0b1120"},
            "text": {"$type": "color", "$value": "#f8fafc"},
        }
    },
    "rounded": {"radius": {"corner": {"$type": "dimension", "$value": "20px"}}},
}
_WISHES: dict[str, Any] = {
    "plain": {},
    "async": {"states": ["loading"], "notes": "The action may take seconds; show that it is loading."},
    "tracked": {"events": ["onImpression"], "notes": "Report when it is first seen."},
}
_THEME_WEIGHTS = (84, 9, 7)
_WISH_WEIGHTS = (86, 8, 6)


def render() -> str:
    """Return the workload as JSON text."""
    random = Random(_SEED)
    steps: list[dict[str, Any]] = []
    edits = iter(_edits())
    for number, group in enumerate(_groups(random), start=1):
        steps.append({"generate": group})
        if number in _EDITS_AFTER_GROUP:
            steps.append({"edit": next(edits)})
    workload = {"designs": _designs(), "themes": _THEMES, "wishes": _WISHES, "steps": steps}
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
    return {name: found[name] for name in _POPULARITY}


def _groups(random: Random) -> Iterator[Sequence[dict[str, str]]]:
    """Yield the groups of requests that are sent at once; no group asks the same twice."""
    left = _GENERATIONS
    for size in cycle(_GROUP_SIZES):
        if left == 0:
            return
        group: dict[tuple[str, str, str], dict[str, str]] = {}
        while len(group) < min(size, left):
            order = _order(random)
            group.setdefault((order["design"], order["theme"], order["wish"]), order)
        left -= len(group)
        yield list(group.values())


def _order(random: Random) -> dict[str, str]:
    weights = [1 / rank for rank in range(1, len(_POPULARITY) + 1)]
    user = random.choice(_USERS)
    return {
        "design": random.choices(_POPULARITY, weights)[0],
        "theme": random.choices(list(_THEMES), _THEME_WEIGHTS)[0],
        "wish": random.choices(list(_WISHES), _WISH_WEIGHTS)[0],
        "user": user,
        "session": f"{user}-{random.randint(1, 3)}",
    }


def _edits() -> list[dict[str, str]]:
    return [
        {"design": "Button/Action", "text": "Save and close", "fill": "#1e40af"},
        {"design": "Card/Product", "text": "Stoneware mug", "fill": "#fafaf9"},
        {"design": "Badge/Status", "text": "Live", "fill": "#e2e8f0"},
        {"design": "Input/Text field", "text": "Business email", "fill": "#334155"},
        {"design": "Button/Action", "text": "Save all", "fill": "#1d4ed8"},
    ]


def main() -> None:
    """Write the file beside this module."""
    PATH.write_text(render(), encoding="utf-8")
    print(f"{PATH.name}: {_GENERATIONS} generations")


if __name__ == "__main__":
    main()
