"""Definitions of the rollups."""

import pytest

from forge_otel.database.facets import layer_requests


@pytest.mark.parametrize(
    ("misses", "source", "requests"),
    [
        (["L1", "L2"], "L4", {"L1": False, "L2": False}),
        (["L1"], "L2", {"L1": False, "L2": True}),
        ({}, "collapsed", {"collapsed": True}),
        (["L1"], "", {"L1": False}),
    ],
)
def test_the_answering_layer_is_a_hit_and_the_pipeline_is_no_layer(
    misses: list[str], source: str, requests: dict[str, bool]
) -> None:
    """Each layer that missed is a request; L4 and generations without an answer add no hit."""
    assert layer_requests(misses, source) == requests
