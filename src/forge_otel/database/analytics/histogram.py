"""Durations in buckets whose bounds grow by a factor: they can be added up, and a percentile is off by 5 % at most.

After DDSketch (Masson, Rim, Lee; VLDB 2019), with the bucket of the smallest value taken for all below it.
"""

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["RELATIVE_ERROR", "bucket_of", "percentile"]

RELATIVE_ERROR: Final = 0.05
"""Of every percentile above a tenth of a millisecond."""

_FACTOR: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_FACTOR: Final = math.log(_FACTOR)
_SMALLEST_S: Final = 1e-4
_LAST: Final = 300
"""Some thirty years."""


def bucket_of(duration_s: float) -> int:
    """Return the number of the bucket; 0 for what is too short to matter, or no number."""
    if not duration_s > _SMALLEST_S:
        return 0
    return _LAST if math.isinf(duration_s) else min(_LAST, math.ceil(math.log(duration_s / _SMALLEST_S) / _LOG_FACTOR))


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """Return the smallest duration in seconds that at least `share` of all are not above, or None without any.

    Args:
        counts: bucket to the number of durations in it.
        share: 0.95 for the 95th percentile.
    """
    rank = max(1, math.ceil(share * sum(counts.values())))
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank <= 0:
            # In the middle, so that it is as far from both bounds.
            return _SMALLEST_S * _FACTOR**bucket * 2 / (1 + _FACTOR)
    return None
