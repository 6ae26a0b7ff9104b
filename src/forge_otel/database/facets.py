"""Definitions of the rollups, shared by the code that writes them and the code that reads them.

A row of the table `rollups` is a sum over one span of time and one component type, or over all component types where
the component type is empty. The *facet* says which figures it holds:

========== ==================== ================================ ==================================
facet      name                 bucket                           count, hits, cost, saved
========== ==================== ================================ ==================================
`answers`  source               1 where the outcome is `ok`      generations, -, cost, saved
`latency`  source               of `histogram`, `ok` only        generations
`costs`    API                  1 where no price is known        calls, -, cost
`errors`   type, else outcome   0                                generations
`layers`   cache layer          0                                lookups, hits, -, saved
========== ==================== ================================ ==================================
"""

from collections.abc import Iterable
from typing import Final

__all__ = ["ALL_TYPES", "DAY", "FACETS", "HOUR", "MAX_NAME_CHARS", "UNKNOWN_TYPE", "layer_requests"]

FACETS: Final = ("answers", "costs", "errors", "latency", "layers")

# Lengths of a span in hours.
HOUR: Final = 1
DAY: Final = 24

ALL_TYPES: Final = ""
# A generation without a component type; the empty type would be counted twice in the sum over all types.
UNKNOWN_TYPE: Final = "unknown"
MAX_NAME_CHARS: Final = 256

_CACHED: Final = frozenset({"L1", "L2", "L3", "collapsed"})


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
