"""Open-loop load on a service over HTTP, at a fixed rate, and the result of each request."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

__all__ = ["Load", "RequestResult", "Response", "percentile"]


class Response(Protocol):
    """A response of an HTTP client such as httpx."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; names are case-insensitive."""
        ...

    @property
    def content(self) -> bytes:
        """The complete body."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """The result of one request.

    Args:
        due_s: time of the monotonic clock at which the request was due.
        latency_s: seconds from then to the end of the response.
        status: HTTP status; 0 without a response.
        code: `code` of a problem+json body; the type of the client's exception without a response; else "".
        retry_after_s: value of `Retry-After`, or None.
        load: name of the load.
        requires: dependencies without which the request cannot succeed.
        extracted: value that the load's `extract` returned for a successful response.
    """

    due_s: float
    latency_s: float
    status: int
    code: str = ""
    retry_after_s: float | None = None
    load: str = ""
    requires: frozenset[str] = frozenset()
    extracted: Any = None

    @property
    def is_success(self) -> bool:
        """Return whether the status is 2xx or 3xx."""
        return 200 <= self.status < 400

    @property
    def is_clear_refusal(self) -> bool:
        """Return whether the response is a 503 with a problem code and `Retry-After`."""
        return self.status == 503 and bool(self.code) and self.retry_after_s is not None


class Load:
    """Sends requests at a fixed rate while it is entered.

    Args:
        send: sends one request; called with its number, from 0.
        name: distinguishes its results from those of other loads.
        rate_per_s: requests per second.
        requires: dependencies without which these requests cannot succeed.
        extract: returns the value to record of a successful response; if it raises, the request counts as failed.
    """

    def __init__(
        self,
        send: Callable[[int], Awaitable[Response]],
        *,
        name: str = "",
        rate_per_s: float = 20.0,
        requires: Collection[str] = (),
        extract: Callable[[Response], Any] = lambda _: None,
    ) -> None:
        self.results: list[RequestResult] = []
        """The results, in the order in which the requests ended."""
        self._send = send
        self._name = name
        self._rate_per_s = rate_per_s
        self._requires = frozenset(requires)
        self._extract = extract
        self._pacer: asyncio.Task[None] | None = None
        self._pending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._pacer = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
            with suppress(asyncio.CancelledError):
                await self._pacer
        while self._pending:
            await asyncio.wait(self._pending)

    async def drain(self, due_before_s: float) -> None:
        """Wait until every request that was due before this time of the monotonic clock has ended."""
        while outstanding := [task for task in self._pending if float(task.get_name()) < due_before_s]:
            await asyncio.wait(outstanding)

    async def _pace(self) -> None:
        started_s, number = time.monotonic(), 0
        while True:
            # From the start and not from the request before, so that delays do not add up to a lower rate.
            due_s = started_s + number / self._rate_per_s
            await asyncio.sleep(due_s - time.monotonic())
            # `drain` reads the due time from the name.
            task = asyncio.create_task(self._request(number, due_s), name=repr(due_s))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
            number += 1

    async def _request(self, number: int, due_s: float) -> None:
        fields: dict[str, Any]
        try:
            fields = _result_fields(await self._send(number), self._extract)
        except Exception as exc:
            fields = {"status": 0, "code": type(exc).__name__}
        # From the moment at which the request was due, not sent: a service that stalls cannot hide it (coordinated
        # omission).
        latency_s = time.monotonic() - due_s
        self.results.append(
            RequestResult(due_s=due_s, latency_s=latency_s, load=self._name, requires=self._requires, **fields)
        )


def percentile(values: Collection[float], fraction: float) -> float:
    """Return the smallest value that at least `fraction` (0 to 1) of the values do not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(fraction * len(ordered))) - 1] if ordered else math.nan


def _result_fields(response: Response, extract: Callable[[Response], Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"status": response.status_code}
    if response.status_code < 400:
        return fields | {"extracted": extract(response)}
    # The body of an error may be the HTML of a proxy, or JSON without an object.
    with suppress(ValueError, AttributeError):
        fields["code"] = str(json.loads(response.content).get("code", ""))
    with suppress(KeyError, ValueError):
        fields["retry_after_s"] = float(response.headers["retry-after"])
    return fields
