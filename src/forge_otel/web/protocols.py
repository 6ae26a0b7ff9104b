"""What the HTTP entrance asks of the runtime; `forge_otel.forge.Forge` is one, tests may bring a smaller one."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from opentelemetry.trace import SpanContext, Tracer

from forge_otel.names import Instrument
from forge_otel.settings import Settings
from forge_otel.types import Progress, Record

__all__ = ["Instruments", "Page", "RecentRecords", "RecentTraces", "Runtime", "RuntimeOperations", "Telemetry"]

Attributes = Mapping[str, str | bool | int | float]


class Instruments(Protocol):
    """Records points of the catalog's instruments."""

    def record_later(
        self, instrument: Instrument, value: float, attributes: Attributes, *, exemplar: SpanContext | None = None
    ) -> None:
        """Record when metrics are next collected, as a point of the span `exemplar`."""
        ...

    def observe(
        self, instrument: Instrument, callback: Callable[[], Iterable[tuple[float, Attributes]]], /
    ) -> Callable[[], None]:
        """Ask `callback` for the values of an observable instrument; returns what ends it."""
        ...


class Page(Protocol):
    """Renders the metrics page."""

    async def render(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """Return the page and its headers, in the format that the scraper prefers."""
        ...


class RecentTraces(Protocol):
    """Remembers the last traces of this process."""

    def trace(self, trace_id: str, /) -> Sequence[Any]:
        """Return the spans of a trace as dataclasses, parents first; empty where it is not remembered."""
        ...


class RecentRecords(Protocol):
    """Remembers the last records of this process."""

    def records(self, limit: int) -> Sequence[Record]:
        """Return up to `limit` records, newest first."""
        ...

    def get(self, record_id: str, /) -> Record | None:
        """Return one record."""
        ...


class Telemetry(Protocol):
    """Where spans and points go."""

    @property
    def tracer(self) -> Tracer:
        """Makes the server spans."""
        ...

    @property
    def instruments(self) -> Instruments:
        """Takes the points."""
        ...

    @property
    def prometheus(self) -> Page:
        """Renders `/metrics`."""
        ...

    @property
    def recent_traces(self) -> RecentTraces:
        """Feeds the dashboard."""
        ...


class RuntimeOperations(Protocol):
    """The operators' interface to the runtime."""

    def breakers(self) -> Sequence[Mapping[str, Any]]:
        """Return what the circuit breakers look like now, JSON-ready, by name."""
        ...

    def set_breaker(self, name: str, mode: str) -> None:
        """Force a breaker open or closed, let it only watch, or hand it back to itself.

        Raises:
            NotFound: there is no such breaker.
            BadRequest: there is no such mode.
        """
        ...

    async def purge(self, by: str, value: str, *, who: str, is_dry_run: bool = False) -> Mapping[str, Any]:
        """Purge the exact cache and return what that met, JSON-ready.

        Raises:
            BadRequest: there is no such thing to purge by.
        """
        ...

    async def summary(self) -> Mapping[str, Any]:
        """Return the dashboard's figures, JSON-ready.

        `generations`, `by_source`, `hit_rate`, `errors`, `cost_usd`, `saved_usd`, `full` and `cached`
        (each `p50_s`, `p95_s`), `outbox` (`sinks` by name), `breakers`, `scope`.
        """
        ...

    async def report(self, asked: Mapping[str, str]) -> tuple[str, str]:
        """Return a report as text, and its media type.

        Raises:
            BadRequest: something that is asked for cannot be understood, or is too much.
            NotFound: there is no database.
            ServiceUnavailable: it does not answer.
        """
        ...

    def health_report(self) -> Mapping[str, Any]:
        """Return `{"status": "pass" | "warn" | "fail", "checks": {…}}`, JSON-ready."""
        ...

    def ready(self) -> bool:
        """Whether requests can be answered."""
        ...


class Runtime(Protocol):
    """The forge, as far as HTTP is concerned. It may be entered several times: the last exit closes it."""

    @property
    def settings(self) -> Settings:
        """How it runs."""
        ...

    @property
    def telemetry(self) -> Telemetry:
        """Where spans and points go."""
        ...

    @property
    def recent(self) -> RecentRecords:
        """Feeds the dashboard."""
        ...

    @property
    def operations(self) -> RuntimeOperations:
        """Figures, reports, breakers, purges and health."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None: ...

    def running(self) -> Sequence[str]:
        """Return the keys that are being generated or waited for in this process."""
        ...

    def follow_key(self, key: str, *, after: str = "", wait_s: float = 5.0) -> AsyncGenerator[Progress, None]:
        """Watch the generation of a key: from its beginning, in whichever process it runs.

        Raises:
            NotFound: none is running, and none ended a short while ago.
        """
        ...
