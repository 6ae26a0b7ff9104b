"""Growing pauses between attempts, with jitter, and the pause that a server asks for."""

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["MAX_RETRY_AFTER_S", "Backoff", "parse_retry_after"]

# Longer pauses are not believed: the clock behind an HTTP date may be wrong.
MAX_RETRY_AFTER_S: Final = 3600.0


class Backoff:
    """Exponential back-off with equal jitter: each pause is a random 50 to 100 % of a limit that doubles.

    Args:
        first_s: limit of the first pause in seconds.
        longest_s: largest limit in seconds.
        rng: returns a number in [0, 1).
    """

    def __init__(
        self,
        *,
        first_s: float,
        longest_s: float,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._rng = rng
        self._limit_s = first_s

    def next_s(self) -> float:
        """Return the next pause in seconds and double the limit."""
        pause_s = self._limit_s * (0.5 + self._rng() / 2)
        self._limit_s = min(self._limit_s * 2, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._limit_s = self._first_s


def parse_retry_after(value: str | None, *, wall_s: Callable[[], float] = time.time) -> float | None:
    """Parse a `Retry-After` header: seconds or an HTTP date (RFC 9110, section 10.2.3).

    Args:
        value: the header, or None.
        wall_s: the wall clock that a date is compared with.

    Returns:
        Seconds from now in [0, 3600], or None where the header cannot be read.
    """
    if value is None:
        return None
    try:
        asked_s = float(value)
    except ValueError:
        try:
            asked_s = parsedate_to_datetime(value).timestamp() - wall_s()
        except (ValueError, TypeError, OverflowError):
            return None
    # A NaN fails the comparison.
    return min(max(asked_s, 0.0), MAX_RETRY_AFTER_S) if asked_s == asked_s else None  # noqa: PLR0124
