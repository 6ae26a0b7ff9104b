"""Definitions of the rollups: layer requests, and the latency histogram."""

import math
import random
from collections import Counter

import pytest

from forge_otel.database.rollups import RELATIVE_ERROR, bucket_of, layer_requests, percentile


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


@pytest.mark.parametrize("fraction", [0.5, 0.95, 0.99])
def test_a_percentile_is_within_its_error(fraction: float) -> None:
    """Compared with the exact nearest-rank percentile of log-normal durations."""
    rng = random.Random(7)
    durations = sorted(rng.lognormvariate(1, 2) for _ in range(5_000))
    exact = durations[math.ceil(fraction * len(durations)) - 1]

    found = percentile(Counter(map(bucket_of, durations)), fraction)

    assert found == pytest.approx(exact, rel=RELATIVE_ERROR)


def test_an_empty_histogram_has_no_percentile() -> None:
    """None, because 0 would be a duration."""
    assert percentile({}, 0.95) is None


@pytest.mark.parametrize(
    ("duration_s", "bucket"), [(0.0, 0), (-1.0, 0), (math.nan, 0), (1e-4, 0), (1.01e-4, 1), (1e9, 300), (math.inf, 300)]
)
def test_extreme_durations_have_a_bucket(duration_s: float, bucket: int) -> None:
    """Every float falls into one of 301 buckets."""
    assert bucket_of(duration_s) == bucket
