"""Default policies by service.

The limits follow from the wait that a caller accepts: 50 ms for a cache that is read before every answer, 0.5 s for a
vector store. Background work (archive, database, spans, files of a design server) may take longer, and a model gets a
minute.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from forge_otel.resilience.attempt_timeout import TimeoutOptions
from forge_otel.resilience.breaker import BreakerOptions
from forge_otel.resilience.bulkhead import BulkheadOptions
from forge_otel.resilience.deadline import DeadlineOptions
from forge_otel.resilience.retry import RetryOptions

__all__ = ["SERVICE_DEFAULTS", "Policies", "defaults_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policies of one service, from outer to inner."""

    deadline: DeadlineOptions = field(default_factory=DeadlineOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    bulkhead: BulkheadOptions = field(default_factory=BulkheadOptions)
    timeout: TimeoutOptions = field(default_factory=TimeoutOptions)


def _policies(
    *,
    total_s: float,
    attempt_s: float,
    attempts: int = 3,
    base_s: float = 0.5,
    slow_s: float = math.inf,
    open_s: float = 60.0,
    max_open_s: float = 600.0,
    slots: int = 100,
    max_waiting: int | None = None,
    max_wait_s: float = 5.0,
    is_cancelled_in_place: bool = False,
) -> Policies:
    return Policies(
        deadline=DeadlineOptions(total_s=total_s),
        retry=RetryOptions(attempts=attempts, base_s=base_s),
        # Longer than the longest attempt, so that there is only one probe at a time.
        breaker=BreakerOptions(
            open_s=open_s, max_open_s=max_open_s, slow_s=slow_s, probe_lease_s=max(30.0, 1.5 * attempt_s)
        ),
        bulkhead=BulkheadOptions(
            max_concurrent=slots,
            max_waiting=4 * slots if max_waiting is None else max_waiting,
            max_wait_s=max_wait_s,
        ),
        timeout=TimeoutOptions(attempt_s=attempt_s, is_cancelled_in_place=is_cancelled_in_place),
    )


# Of caches and stores: a probe call costs milliseconds, while each call without its cache costs a generation.
_CACHE_OPEN_S: Final = 2.0
_CACHE_MAX_OPEN_S: Final = 10.0

_UNKNOWN: Final = _policies(total_s=30, attempt_s=10)

SERVICE_DEFAULTS: Final[Mapping[str, Policies]] = MappingProxyType(
    {
        "openai": _policies(total_s=120, attempt_s=60, slow_s=45, max_wait_s=30),
        # Needed by every lookup of free text; without an embedding the texts are compared word by word.
        "openai:embeddings": _policies(
            total_s=2, attempt_s=1, attempts=2, base_s=0.1, open_s=10, max_open_s=60, max_wait_s=0.2
        ),
        # A large file takes Figma up to a minute; callers wait 2 s at most (`FigmaOptions.wait_s`).
        "figma": _policies(
            total_s=90, attempt_s=90, attempts=2, base_s=0.2, open_s=5, max_open_s=60, slots=20, max_wait_s=30
        ),
        "qdrant": _policies(
            total_s=0.5,
            attempt_s=0.5,
            attempts=2,
            base_s=0.05,
            slow_s=0.4,
            open_s=_CACHE_OPEN_S,
            max_open_s=_CACHE_MAX_OPEN_S,
            max_wait_s=0.1,
        ),
        # A retry takes longer than a miss. redis-py drops its connection at once when it is cancelled, so a task for
        # each attempt would only slow down hits. There are fewer slots than connections, because the wait for a
        # connection would count as a slow server. The queue is long; 50 ms limit the wait in it.
        "redis": _policies(
            total_s=0.05,
            attempt_s=0.05,
            attempts=1,
            slow_s=0.04,
            open_s=_CACHE_OPEN_S,
            max_open_s=_CACHE_MAX_OPEN_S,
            slots=20,
            max_waiting=10_000,
            max_wait_s=0.05,
            is_cancelled_in_place=True,
        ),
        # The lease file of the workers of one host; its own limit for a lock is shorter.
        "flights": _policies(
            total_s=0.25,
            attempt_s=0.25,
            attempts=1,
            open_s=_CACHE_OPEN_S,
            max_open_s=_CACHE_MAX_OPEN_S,
            slots=500,
            max_wait_s=0.05,
        ),
        "s3": _policies(total_s=60, attempt_s=15, slots=16, max_wait_s=30),
        "postgresql": _policies(total_s=30, attempt_s=10, slots=16, max_wait_s=10),
        "langsmith": _policies(total_s=30, attempt_s=10, slots=8),
        "otlp": _policies(total_s=30, attempt_s=10, slots=8),
    }
)


def defaults_for(name: str) -> Policies:
    """Return the default policies of the service `name`; unknown services get 30 s and three attempts.

    Args:
        name: name of the service, optionally with a part after a colon, as in `"openai:embeddings"`.
    """
    return SERVICE_DEFAULTS.get(name) or SERVICE_DEFAULTS.get(name.partition(":")[0], _UNKNOWN)
