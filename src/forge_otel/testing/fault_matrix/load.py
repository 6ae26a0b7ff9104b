"""A steady load on a service over HTTP, and what became of each request.

Requests go out at a steady rate however slow the answers are (an open loop), and a latency counts from the moment at
which its request was due, so that a service that stalls cannot hide it.
"""

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
    """What an HTTP client returns; httpx and httpx-like ones do."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """With names in any case."""
        ...

    @property
    def content(self) -> bytes:
        """The whole body."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """What became of one request.

    Args:
        due_s: when it was to be sent, on the monotonic clock.
        latency_s: from then to the last byte.
        status: the HTTP status; 0 where none came.
        code: of the problem+json, the type of the client's exception where no answer came, else empty.
        retry_after_s: what the caller is told to wait, or None.
        load: the name of the load that it belongs to.
        needs: the helpers without which the request cannot be answered.
        kept: what the load's `keep` made of the response.
    """

    due_s: float
    latency_s: float
    status: int
    code: str = ""
    retry_after_s: float | None = None
    load: str = ""
    needs: frozenset[str] = frozenset()
    kept: Any = None

    @property
    def is_good(self) -> bool:
        """Whether the caller got what it asked for."""
        return 200 <= self.status < 400

    @property
    def is_clear(self) -> bool:
        """Whether a refusal says what is wrong and when to come back."""
        return self.status == 503 and bool(self.code) and self.retry_after_s is not None


class Load:
    """Asks a service at a steady rate while it is entered, however slowly it answers.

    Args:
        send: sends one request; called with its number, from 0.
        name: what tells its answers from those of other loads.
        rate_per_s: requests a second.
        needs: the helpers without which these requests cannot be answered.
        keep: what to remember of a good response, for example an id; raises where it is not good after all.
    """

    def __init__(
        self,
        send: Callable[[int], Awaitable[Response]],
        *,
        name: str = "",
        rate_per_s: float = 20.0,
        needs: Collection[str] = (),
        keep: Callable[[Response], Any] = lambda _: None,
    ) -> None:
        self.answers: list[RequestResult] = []
        """In the order in which they came."""
        self._send = send
        self._name = name
        self._rate_per_s = rate_per_s
        self._needs = frozenset(needs)
        self._keep = keep
        self._pacing: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._pacing = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pacing is not None:
            self._pacing.cancel()
            with suppress(asyncio.CancelledError):
                await self._pacing
        while self._asking:
            await asyncio.wait(self._asking)

    async def settle(self, until_s: float) -> None:
        """Wait until everything that was due before `until_s` is answered."""
        while outstanding := [task for task in self._asking if float(task.get_name()) < until_s]:
            await asyncio.wait(outstanding)

    async def _pace(self) -> None:
        started_s, number = time.monotonic(), 0
        while True:
            due_s = started_s + number / self._rate_per_s
            await asyncio.sleep(due_s - time.monotonic())
            task = asyncio.create_task(self._ask(number, due_s), name=repr(due_s))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            number += 1

    async def _ask(self, number: int, due_s: float) -> None:
        facts: dict[str, Any]
        try:
            facts = _facts(await self._send(number), self._keep)
        except Exception as exc:
            facts = {"status": 0, "code": type(exc).__name__}
        latency_s = time.monotonic() - due_s
        self.answers.append(
            RequestResult(due_s=due_s, latency_s=latency_s, load=self._name, needs=self._needs, **facts)
        )


def percentile(values: Collection[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed; NaN where there is none."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1] if ordered else math.nan


def _facts(response: Response, keep: Callable[[Response], Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"status": response.status_code}
    if response.status_code < 400:
        return facts | {"kept": keep(response)}
    with suppress(ValueError, AttributeError):
        facts["code"] = str(json.loads(response.content).get("code", ""))
    with suppress(KeyError, ValueError):
        facts["retry_after_s"] = float(response.headers["retry-after"])
    return facts
