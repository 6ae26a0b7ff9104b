"""Responses of Figma, their errors and TTLs, and the cached state of a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from forge_otel.figma.request import FigmaRequest

__all__ = ["MS", "CachedState", "FigmaOptions", "FigmaRejected", "FigmaResponse", "FigmaThrottled"]

MS: Final = 1000
# Tolerated difference between the clocks of workers.
_SKEW_MS: Final = 5 * MS


class FigmaThrottled(Exception):
    """Figma, or a proxy in front of it, rate-limits the token (429).

    Args:
        retry_after_s: requested pause in seconds.
    """

    # Read by `resilience.retry.classify`, as of an exception of an HTTP client.
    status_code = 429

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"Figma requested a pause of {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s
        self.headers = {"retry-after": str(retry_after_s)}


class FigmaRejected(Exception):
    """Figma rejects the token itself, for every request."""

    status_code = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaOptions:
    """TTLs and limits of the response cache.

    Args:
        fresh_s: seconds for which a file's version is trusted before it is checked again.
        keep_s: TTL of an entry in seconds; also the largest age of a response during an outage.
        negative_s: seconds for which a missing file is not requested again.
        wait_s: seconds that a caller waits for Figma; after that it gets a stale copy or `FetchInProgress`, while the
            fetch continues within the deadline of the guard `figma`.
        local_bytes: size of the in-process copy beside a shared store.
        max_response_bytes: larger responses are rejected.
    """

    fresh_s: float = 300.0
    keep_s: float = 7 * 24 * 3600.0
    negative_s: float = 10.0
    # Callers accept 2 s. All callers of a shared fetch resume at once, which takes the last of them the rest.
    wait_s: float = 1.9
    local_bytes: int = 64 * 2**20
    max_response_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FigmaResponse:
    """A response of Figma.

    Args:
        body: the parsed JSON.
        source: `hit`: cached; `revalidated`: cached, and its file has not changed; `stale`: cached, and could not be
            checked; `miss`: fetched.
        reason: reason of a miss.
        age_s: seconds since it was last known to be current.
        size_bytes: size of the JSON.
    """

    body: Mapping[str, Any]
    source: str
    reason: str = ""
    age_s: float = 0.0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedState:
    """The cached state of a request, read before Figma is called.

    Args:
        entry: the cached response, without its body.
        version_check: the last check of the file's version.
        drop_epoch: epoch of `ResponseCache.drop`; an entry of an earlier epoch is not used.
        touch_epoch: epoch of `ResponseCache.touch`; a version check of an earlier epoch is not used.
        not_found: message of a cached 404.
        pauses_s: remaining seconds of the pause that Figma requested, by tier.
        reason: reason of a miss.
        now_ms: time of the read.
    """

    entry: Mapping[str, Any] | None
    version_check: Mapping[str, Any] | None
    drop_epoch: str
    touch_epoch: str
    not_found: str | None
    pauses_s: Mapping[str, float]
    reason: str
    now_ms: int

    def checked_version(self, options: FigmaOptions) -> str | None:
        """Return the file's version if it was checked within `fresh_s`."""
        check = self.version_check
        if check is None or check["touched"] != self.touch_epoch:
            return None
        return str(check["version"]) if self._is_recent(check["at"], options) else None

    def is_fresh(self, request: FigmaRequest, options: FigmaOptions) -> bool:
        """Return whether the entry may be served without a check."""
        entry = self.entry
        if entry is None or request.is_pinned:
            return entry is not None
        if entry["version"] is not None:
            return bool(entry["version"] == self.checked_version(options))
        return bool(self._is_recent(entry["at"], options) and entry["touched"] == self.touch_epoch)

    def flight_key(self, key: str) -> str:
        """Return the single-flight key of a call; a call after an invalidation does not join one from before it."""
        return f"{key}:{self.drop_epoch}:{self.touch_epoch}"

    def age_s(self) -> float:
        """Return the seconds since the entry was last known to be current."""
        if self.entry is None:
            return 0.0
        current_ms: int = self.entry["at"]
        if self.version_check is not None and self.version_check["version"] == self.entry["version"]:
            current_ms = max(current_ms, self.version_check["at"])
        return max(0.0, (self.now_ms - current_ms) / MS)

    def _is_recent(self, at_ms: int, options: FigmaOptions) -> bool:
        return -_SKEW_MS <= self.now_ms - at_ms < options.fresh_s * MS
