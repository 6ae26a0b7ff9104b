"""Requests have one canonical form, which is their cache key."""

import pytest

from forge_otel.errors import BadRequest
from forge_otel.figma.request import FigmaRequest, parse_file_key, parse_node_ids


@pytest.mark.parametrize("ids", [[], [""], ["1:1", "x"], ["1:1,2:2"], ["1"] * 3, [f"1:{n}" for n in range(201)]])
def test_malformed_ids_are_rejected(ids: list[str]) -> None:
    """Also none and too many."""
    with pytest.raises(BadRequest, match="node ids look like"):
        parse_node_ids(ids)


def test_node_ids_are_sorted_and_unique() -> None:
    """Links spell 1:2 as 1-2; ids of instances have several parts."""
    assert parse_node_ids(["2-1", "I1:2;3:4", "1:1", "1-1 "]) == "1:1,2:1,I1:2;3:4"


@pytest.mark.parametrize("text", ["", "../../etc", "a/b", "a" * 129, "ключ"])
def test_malformed_file_keys_are_rejected(text: str) -> None:
    """A key becomes a part of the URL."""
    with pytest.raises(BadRequest, match="figma_key"):
        parse_file_key(text)


def test_the_cache_key_covers_every_field() -> None:
    """Two different requests never share an entry."""
    requests = [
        FigmaRequest(endpoint="file", file_key="k", scope="s"),
        FigmaRequest(endpoint="meta", file_key="k", scope="s"),
        FigmaRequest(endpoint="file", file_key="other", scope="s"),
        FigmaRequest(endpoint="file", file_key="k", scope="other"),
        FigmaRequest(endpoint="file", file_key="k", scope="s", params=(("version", "17"),)),
    ]
    assert len({request.key for request in requests}) == len(requests)
    assert [request.is_pinned for request in requests] == [False, False, False, False, True]
