"""What Figma said or refused, how long it is believed, and what is known before anybody is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from forge_otel.figma.request import FigmaRequest

__all__ = ["MS", "FigmaOptions", "FigmaRejected", "FigmaResponse", "Known", "Throttled"]

MS: Final = 1000
# Clocks of workers may differ by so much.
_SKEW_MS: Final = 5 * MS


class Throttled(Exception):
    """Figma, or somebody between, asks to be left alone.

    Args:
        retry_after_s: for so long.
    """

    status_code = 429

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"Figma asks to be left alone for {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s
        self.headers = {"retry-after": str(retry_after_s)}


class FigmaRejected(Exception):
    """The token itself is refused, whatever is asked with it."""

    status_code = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaOptions:
    """How long answers live.

    Args:
        fresh_s: seconds in which a version that was seen is believed.
        keep_s: seconds after which an answer is fetched again in any case, and no longer used while Figma is away.
        negative_s: seconds in which a file that is not there is not asked for again.
        local_bytes: bound of the copies in this process, beside a shared store.
        max_response_bytes: a larger answer is refused.
    """

    fresh_s: float = 300.0
    keep_s: float = 7 * 24 * 3600.0
    negative_s: float = 10.0
    local_bytes: int = 64 * 2**20
    max_response_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaResponse:
    """What Figma said.

    Args:
        body: the JSON.
        source: `hit`: it was kept; `revalidated`: it was kept and its file has not changed; `stale`: it was kept
            and could not be checked; `miss`: it was fetched.
        reason: of a miss.
        age_s: how long ago it was last known to be true.
        size_bytes: of the JSON.
    """

    body: Mapping[str, Any]
    source: str
    reason: str = ""
    age_s: float = 0.0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known about a request, before anybody is asked."""

    entry: Mapping[str, Any] | None
    check: Mapping[str, Any] | None
    dropped: str
    touched: str
    absent: str | None
    pauses_s: Mapping[str, float]
    reason: str
    now_ms: int

    def seen(self, options: FigmaOptions) -> str | None:
        """Return the file's version if it was seen lately."""
        check = self.check
        if check is None or check["touched"] != self.touched:
            return None
        is_recent = -_SKEW_MS <= self.now_ms - check["at"] < options.fresh_s * MS
        return str(check["version"]) if is_recent else None

    def is_fresh(self, asked: FigmaRequest, options: FigmaOptions) -> bool:
        """Whether what is kept may be answered as it is."""
        entry = self.entry
        if entry is None or asked.is_pinned:
            return entry is not None
        if entry["version"] is not None:
            return bool(entry["version"] == self.seen(options))
        is_recent = -_SKEW_MS <= self.now_ms - entry["at"] < options.fresh_s * MS
        return bool(is_recent and entry["touched"] == self.touched)

    def flight(self, key: str) -> str:
        """Return what calls share a flight under: who asks after an invalidation does not join one from before it."""
        return f"{key}:{self.dropped}:{self.touched}"

    def age_s(self) -> float:
        """Return how long ago what is kept was last known to be true."""
        if self.entry is None:
            return 0.0
        seen_ms: int = self.entry["at"]
        if self.check is not None and self.check["version"] == self.entry["version"]:
            seen_ms = max(seen_ms, self.check["at"])
        return max(0.0, (self.now_ms - seen_ms) / MS)
