"""Latency histogram with exponential buckets: histograms can be added up, and percentiles are within 5 %.

After DDSketch (Masson, Rim, Lee; VLDB 2019). Bucket 0 holds every duration up to a tenth of a millisecond.
"""

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["RELATIVE_ERROR", "bucket_of", "percentile"]

RELATIVE_ERROR: Final = 0.05
"""Maximum relative error of a percentile above a tenth of a millisecond."""

_FACTOR: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_FACTOR: Final = math.log(_FACTOR)
_SMALLEST_S: Final = 1e-4
# The upper bound of this bucket is about thirty years.
_LAST: Final = 300


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
