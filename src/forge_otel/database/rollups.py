"""Definitions of the rollups, shared by the code that writes them and the code that reads them.

A row of the table `rollups` is a sum over one span of time and one component type, or over all component types where
the component type is empty. The *facet* says which figures it holds:

========== ==================== ================================ ==================================
facet      name                 bucket                           count, hits, cost, saved
========== ==================== ================================ ==================================
`answers`  source               1 where the outcome is `ok`      generations, -, cost, saved
`latency`  source               of the duration, `ok` only       generations
`costs`    API                  1 where no price is known        calls, -, cost
`errors`   type, else outcome   0                                generations
`layers`   cache layer          0                                lookups, hits, -, saved
========== ==================== ================================ ==================================

Latency is a histogram with exponential buckets; percentiles are within 5 %.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = [
    "ALL_TYPES",
    "DAY",
    "FACETS",
    "HOUR",
    "MAX_NAME_CHARS",
    "RELATIVE_ERROR",
    "UNKNOWN_TYPE",
    "bucket_of",
    "layer_requests",
    "percentile",
]

FACETS: Final = ("answers", "costs", "errors", "latency", "layers")

# Lengths of a span in hours.
HOUR: Final = 1
DAY: Final = 24

ALL_TYPES: Final = ""
# A generation without a component type; the empty type would be counted twice in the sum over all types.
UNKNOWN_TYPE: Final = "unknown"
# The length of the column, beyond which PostgreSQL refuses the row.
MAX_NAME_CHARS: Final = 256

_CACHED: Final = frozenset({"L1", "L2", "L3", "collapsed"})

# After DDSketch (Masson, Rim, Lee; VLDB 2019): histograms of hours add up to those of days.
RELATIVE_ERROR: Final = 0.05
"""Maximum relative error of a percentile above a tenth of a millisecond."""

_FACTOR: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_FACTOR: Final = math.log(_FACTOR)
_SMALLEST_S: Final = 1e-4
# The upper bound of this bucket is about thirty years.
_LAST: Final = 300


def layer_requests(misses: Iterable[str], source: str) -> dict[str, bool]:
    """Return the cache layers that a generation looked into, and whether each was a hit.

    Args:
        misses: the layers that missed.
        source: the layer that answered, `L4` for the pipeline.
    """
    requests = dict.fromkeys(misses, False)
    if source in _CACHED:
        requests[source] = True
    return requests


def bucket_of(duration_s: float) -> int:
    """Return the bucket of a duration; NaN and negative durations fall into bucket 0."""
    # NaN fails every comparison.
    if not duration_s > _SMALLEST_S:
        return 0
    return _LAST if math.isinf(duration_s) else min(_LAST, math.ceil(math.log(duration_s / _SMALLEST_S) / _LOG_FACTOR))


def percentile(counts: Mapping[int, int], fraction: float) -> float | None:
    """Return the nearest-rank percentile in seconds, or None for an empty histogram.

    Args:
        counts: bucket to the number of durations in it.
        fraction: 0.95 for the 95th percentile.
    """
    rank = max(1, math.ceil(fraction * sum(counts.values())))
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank <= 0:
            # The point of the bucket whose relative distance to both bounds is the same.
            return _SMALLEST_S * _FACTOR**bucket * 2 / (1 + _FACTOR)
    return None
