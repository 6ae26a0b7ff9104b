"""Recent texts are found by their words, within their scope and TTL."""

from typing import Any

import pytest

from forge_otel.layers.semantic.lexical_index import LexicalIndex, wording_of
from forge_otel.types import GenerationRequest, Point


def _point(name: str, *, scope: str = "s", expires_at: float = 100.0) -> Point:
    return Point(id=name, scope=scope, facts=name, vector=(), expires_at=expires_at)


def test_the_best_match_comes_first() -> None:
    """Equal words have a similarity of 1."""
    index = LexicalIndex(clock=lambda: 0.0)
    index.add(_point("other"), ["show", "title"])
    index.add(_point("same"), ["show", "icon"])
    found = index.search("s", ["show", "icon"], limit=2)
    assert [neighbour.id for neighbour in found] == ["same", "other"]
    assert [neighbour.similarity for neighbour in found] == pytest.approx([1.0, 0.5])


def test_other_scopes_and_expired_entries_are_not_found() -> None:
    """An entry expires at its time, not after it."""
    index = LexicalIndex(clock=lambda: 100.0)
    index.add(_point("scope", scope="t", expires_at=200.0), ["icon"])
    index.add(_point("expired"), ["icon"])
    assert index.search("s", ["icon"], limit=8) == []


def test_the_oldest_entry_is_evicted() -> None:
    """Adding an entry again makes it the newest."""
    index = LexicalIndex(max_entries=2, clock=lambda: 0.0)
    for name in ("a", "b", "a", "c"):
        index.add(_point(name), ["icon"])
    assert {neighbour.id for neighbour in index.search("s", ["icon"], limit=8)} == {"a", "c"}


@pytest.mark.parametrize(
    ("requirements", "texts"),
    [
        ({"notes": " show it ", "size": "4px"}, {"notes": "show it"}),
        ({"notes": "  "}, None),
        ({"notes": ["show it"]}, None),
        ({"wish": "show it"}, None),
    ],
)
def test_free_text_is_found_by_its_field(requirements: dict[str, Any], texts: dict[str, str] | None) -> None:
    """Only non-empty strings under a known name count."""
    wording = wording_of(GenerationRequest(component_type="button", figma_key="f", requirements=requirements))
    assert (None if wording is None else wording.texts) == texts
    assert wording is None or wording.rest == {"size": "4px"}
