"""Progress events of a run: the log that followers read, and the event ids that clients resume from."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

from forge_otel.errors import BadRequest
from forge_otel.types import Event, Progress

__all__ = ["EventLog", "decode_event", "parse_event_id"]

_MAX_EVENTS: Final = 500
_MAX_CHARS: Final = 128
# Stays within the 64-bit halves of a Redis stream id.
_ID: Final = re.compile(r"\d{1,18}-\d{1,9}", re.ASCII)


class EventLog:
    """Append-only events of one run, read by any number of followers.

    It belongs to one event loop; `append` may be called from any thread.
    """

    def __init__(self) -> None:
        self.fence = 0
        """Number of the run; 0 until the run starts in this process."""
        self.events: list[Event] = []
        self.is_closed = False
        self._started_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def start(self, fence: int, facts: Mapping[str, Any]) -> None:
        """Append the `started` event."""
        self.fence, self._started_s = fence, time.monotonic()
        self.append("started", facts)

    def append(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Append an event and wake the followers; after 500 events a single `truncated` event is appended."""
        if self.is_closed or len(self.events) > _MAX_EVENTS:
            return
        if len(self.events) == _MAX_EVENTS:
            kind, facts = "truncated", {}
        self._add(kind, facts)
        # An abandoned thread may outlive the loop, which then refuses the callback.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    def close(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Append the terminal event and refuse all later ones."""
        if self.fence:
            self._add(kind, facts)
        self.is_closed = True
        self._changed.set()

    async def wait_for_more(self, count: int) -> None:
        """Wait until the log has more than `count` events or is closed."""
        while True:
            self._changed.clear()
            if self.is_closed or len(self.events) > count:
                return
            await self._changed.wait()

    async def follow(self, after: tuple[int, int]) -> AsyncGenerator[Progress, None]:
        """Yield the events after this fence and number until the log is closed."""
        sent = 0
        while True:
            while sent < len(self.events):
                event = self.events[sent]
                sent += 1
                if (event.fence, event.number) > after:
                    yield decode_event(event)
            if self.is_closed and sent == len(self.events):
                return
            await self.wait_for_more(sent)

    def _add(self, kind: str, facts: Mapping[str, Any]) -> None:
        short = {name: value[:_MAX_CHARS] if isinstance(value, str) else value for name, value in facts.items()}
        data = {"kind": kind, "at_s": round(time.monotonic() - self._started_s, 6), "facts": short}
        # An agent's name may hold a lone surrogate, which orjson cannot encode.
        text = orjson.dumps(data, default=str) if _is_printable(short) else orjson.dumps(data | {"facts": {}})
        self.events.append(Event(self.fence, len(self.events) + 1, text))


def decode_event(event: Event) -> Progress:
    """Decode an event; one that cannot be decoded has the kind `unknown`."""
    name = f"{event.fence}-{event.number}"
    # Another version or another program may have written to the shared store.
    try:
        data = orjson.loads(event.data)
        return Progress(id=name, kind=str(data["kind"]), at_s=float(data["at_s"]), facts=dict(data["facts"]))
    except (ValueError, KeyError, TypeError):
        return Progress(id=name, kind="unknown", at_s=0.0)


def parse_event_id(event_id: str) -> tuple[int, int]:
    """Return the run and the number in an event id; zeros if it is empty.

    Raises:
        BadRequest: the id has another form.
    """
    if not event_id:
        return 0, 0
    if not _ID.fullmatch(event_id):
        raise BadRequest("an event id has the form <run>-<number>; send the id of the last event received")
    fence, _, number = event_id.partition("-")
    return int(fence), int(number)


def _is_printable(facts: Mapping[str, Any]) -> bool:
    return all(value.isprintable() for value in facts.values() if isinstance(value, str))
