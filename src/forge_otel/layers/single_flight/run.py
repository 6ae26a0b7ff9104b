"""One generation that is being made for everybody who asks for it, and the story that it tells of itself."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import orjson
from opentelemetry import trace

from forge_otel.context import Generation
from forge_otel.errors import BadRequest
from forge_otel.types import Call, Event, Progress, Reply

__all__ = ["EventLog", "Run", "RunOutcome", "position_of", "progress_of"]

_MAX_EVENTS: Final = 500
_MAX_CHARS: Final = 128
# No larger than what fits the ids of a Redis stream.
_ID: Final = re.compile(r"\d{1,18}-\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a flight ended.

    Args:
        reply: the answer, or None where it failed.
        error: what it failed with.
        traceback: of the error as it left the pipeline.
        is_remote: another process made the answer.
        is_given_up: it was neither answered nor did it fail; the service closes.
    """

    reply: Reply | None = None
    error: BaseException | None = None
    traceback: TracebackType | None = None
    is_remote: bool = False
    is_given_up: bool = False


class EventLog:
    """What one run tells those who follow it; for one event loop, told from any thread."""

    def __init__(self) -> None:
        self.fence = 0
        """Number of the run; 0 until it begins in this process."""
        self.events: list[Event] = []
        self.is_over = False
        self._began_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def begin(self, fence: int, facts: Mapping[str, Any]) -> None:
        """Say that the run has begun."""
        self.fence, self._began_s = fence, time.monotonic()
        self.note("started", facts)

    def note(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Tell those who follow; a run that tells too much is cut short."""
        if self.is_over or len(self.events) > _MAX_EVENTS:
            return
        if len(self.events) == _MAX_EVENTS:
            kind, facts = "truncated", {}
        self._add(kind, facts)
        # The loop may be closed while a thread that nobody waits for goes on.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    def end(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Say how it ended; nothing comes after that."""
        if self.fence:
            self._add(kind, facts)
        self.is_over = True
        self._changed.set()

    async def more_than(self, count: int) -> None:
        """Return when there are more than `count` events, or it is over."""
        while True:
            self._changed.clear()
            if self.is_over or len(self.events) > count:
                return
            await self._changed.wait()

    async def follow(self, after: tuple[int, int]) -> AsyncGenerator[Progress, None]:
        """Yield the events after that fence and number, until the run ends."""
        sent = 0
        while True:
            while sent < len(self.events):
                event = self.events[sent]
                sent += 1
                if (event.fence, event.number) > after:
                    yield progress_of(event)
            if self.is_over and sent == len(self.events):
                return
            await self.more_than(sent)

    def _add(self, kind: str, facts: Mapping[str, Any]) -> None:
        shown = {name: value[:_MAX_CHARS] if isinstance(value, str) else value for name, value in facts.items()}
        data = {"kind": kind, "at_s": round(time.monotonic() - self._began_s, 6), "facts": shown}
        # Half a surrogate pair, as a name of an agent may have, has no JSON form.
        text = orjson.dumps(data, default=str) if _is_plain(shown) else orjson.dumps(data | {"facts": {}})
        self.events.append(Event(self.fence, len(self.events) + 1, text))


class Run:
    """One generation of a key in this process; for one event loop.

    Args:
        call: of the caller who asked first.
        generation: what the run notes in.
    """

    def __init__(self, call: Call, generation: Generation | None) -> None:
        self.call = call
        self.generation = generation
        self.began_s = time.monotonic()
        self.origin = trace.get_current_span().get_span_context()
        self.outcome: asyncio.Future[RunOutcome] = asyncio.get_running_loop().create_future()
        self.story = EventLog()
        self.waiters = 0
        self.is_orphaned = False
        """Whether the caller who asked first has gone."""

    @property
    def is_running(self) -> bool:
        """Whether the pipeline was begun in this process."""
        return self.story.fence > 0

    def begin(self, fence: int) -> None:
        """Say that it is this process that generates, as run number `fence`."""
        facts = {"pipeline": self.call.pipeline, "component_type": self.call.request.component_type}
        if self.generation is not None:
            self.generation.on_progress = self.story.note
            facts["generation_id"] = self.generation.id
        self.story.begin(fence, facts)

    def end(self, outcome: RunOutcome) -> None:
        """Give everybody who waits the outcome."""
        if self.generation is not None:
            self.generation.on_progress = None
        self.story.end(*_last(outcome))
        if not self.outcome.done():
            self.outcome.set_result(outcome)


def progress_of(event: Event) -> Progress:
    """Read an event; one that cannot be read, because somebody else wrote it, has the kind `unknown`."""
    name = f"{event.fence}-{event.number}"
    try:
        data = orjson.loads(event.data)
        return Progress(id=name, kind=str(data["kind"]), at_s=float(data["at_s"]), facts=dict(data["facts"]))
    except (ValueError, KeyError, TypeError):
        return Progress(id=name, kind="unknown", at_s=0.0)


def position_of(name: str) -> tuple[int, int]:
    """Return run and number of an event's id; zeros where it is empty.

    Raises:
        BadRequest: it is no such id.
    """
    if not name:
        return 0, 0
    if not _ID.fullmatch(name):
        raise BadRequest("the id of an event is <run>-<number>, as events have it")
    fence, _, number = name.partition("-")
    return int(fence), int(number)


def _last(outcome: RunOutcome) -> tuple[str, dict[str, Any]]:
    if outcome.reply is None:
        return "failed", {"error_type": type(outcome.error).__name__}
    reply = outcome.reply
    facts = {"source": reply.source, "origin_id": reply.origin_id, "cost_usd": str(reply.cost_usd)}
    return "done", facts | {"is_stored": reply.is_stored}


def _is_plain(facts: Mapping[str, Any]) -> bool:
    return all(value.isprintable() for value in facts.values() if isinstance(value, str))
