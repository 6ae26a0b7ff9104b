"""The runtime: it builds the layers, owns every opened resource and closes it once.

Building a Forge has no side effects. `async with forge:` connects; leaving it flushes and closes within
`shutdown_timeout_s`, also if services are down. It may be entered several times at once (a middleware and a worker, two
mounted applications): the first entry opens it, the last exit closes it.
"""

import asyncio
import functools
import os
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Self

from forge_otel._internal.ids import new_id
from forge_otel._internal.tasks import TaskSupervisor
from forge_otel._runtime import components, default_layers, options
from forge_otel._runtime.health_monitor import HealthMonitor, check_critical, probes_of
from forge_otel._runtime.observers import Observers
from forge_otel._runtime.operations import Operations
from forge_otel._runtime.pipeline import PipelineDecorator, compose
from forge_otel.context import Generation, current_call, current_generation, current_request, record_cache_status
from forge_otel.errors import BadRequest, NotOpen
from forge_otel.keys import generation_key_off_loop
from forge_otel.layers.hooks import CacheHooks
from forge_otel.layers.metrics import MetricsLayer
from forge_otel.layers.recording import RecordingLayer
from forge_otel.layers.single_flight.progress import parse_event_id
from forge_otel.layers.tracing import TracingLayer
from forge_otel.outbox.outbox import Outbox
from forge_otel.outbox.recent import RecentRecords
from forge_otel.resilience.breaker_sharing import BreakerSharing
from forge_otel.resilience.guard import Guard, Guards
from forge_otel.resilience.policies import SERVICE_DEFAULTS, Policies
from forge_otel.settings import Settings
from forge_otel.telemetry.langsmith.feedback import LangSmithFeedback
from forge_otel.telemetry.providers import Telemetry
from forge_otel.telemetry.spans.decorators import Spans
from forge_otel.types import Call, DigestMemo, GenerationRequest, GenerationResult, Layer, Progress, Reply, Sink, Store

__all__ = ["Forge", "current", "default"]

# Digits of the cache key in the archive folder of a component without an id.
_KEY_DIGITS: Final = 24
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)


class Forge:
    """The runtime: telemetry, layers, stores and sinks of one service.

    Args:
        settings: configuration; the defaults need no server.
        layers: replace the default layers between the metrics layer and the pipeline (caches, single-flight, budget,
            timeout), first outermost.
        sinks: replace the default sinks (archive, database).
        policies: guard policies by service, for services that have none by default or need others.
        hooks: what the application alone knows: which part of a request is free text, and its patterns.
        telemetry: destination of spans and metrics; built from the settings if omitted.

    Attributes:
        is_open: whether the runtime is connected; while it is not, decorated functions run without it.
        operations: figures, reports, breakers, purges and health, for operators.
        agent, tool, step, chain, retriever, embedding, llm: span decorators.
        span, record_usage: spans of blocks, and model calls that no instrumentation reports.
        generation: decorator of pipelines.

    Raises:
        ConfigurationError: lists every URL without an adapter and every missing package.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        layers: Sequence[Layer] | None = None,
        sinks: Sequence[Sink] | None = None,
        policies: Mapping[str, Policies] | None = None,
        hooks: CacheHooks | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.is_open = False
        spans = Spans(lambda: self.telemetry.span_recorder if self.is_open else None)
        self.agent, self.tool, self.step, self.chain = spans.agent, spans.tool, spans.step, spans.chain
        self.retriever, self.embedding, self.llm = spans.retriever, spans.embedding, spans.llm
        self.span, self.record_usage = spans.span, spans.record_usage
        self.generation = PipelineDecorator(lambda: self.generate if self.is_open else None)
        self.settings = settings or Settings()
        self.telemetry = telemetry or Telemetry(self.settings)
        self.components = components.build(self.settings)
        self.guards = Guards(policies=policies)
        self.recent = RecentRecords()
        self.outbox = self._build_outbox(self.components.sinks if sinks is None else sinks)
        self._tasks = TaskSupervisor()
        self._observers = Observers(self.telemetry.instruments, self.guards, self.outbox, self.components, self._tasks)
        recorder = RecordingLayer(self.outbox, pipeline_version=self.settings.pipeline_version)
        self._default = default_layers.build(
            self.settings, self.components, self.telemetry, self.guards, recorder, hooks=hooks
        )
        self.exact, self.pattern, self.budget = self._default.exact, self._default.pattern, self._default.budget
        probes = probes_of(self.components, critical=self.settings.critical_services)
        check_critical(self.settings.critical_services, probes, {*SERVICE_DEFAULTS, *(policies or ())})
        self._health = HealthMonitor(probes, guards=self.guards)
        self.operations = self._build_operations()
        self._feedback = LangSmithFeedback(self.guards, self.telemetry.instruments)
        outer: list[Layer] = [
            TracingLayer(self.telemetry, feedback=self._feedback, with_texts=self.settings.capture_content),
            recorder,
            MetricsLayer(self.telemetry.instruments, on_end=self._observers.record_outcome),
        ]
        self._call = compose([*outer, *(self._default.layers if layers is None else layers)], _run_pipeline)
        self._entered = 0
        self._lock = asyncio.Lock()
        self._opened = AsyncExitStack()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **options: Any) -> Self:
        """Build a Forge from the `FORGE_*` variables of `environ`, or of the process.

        Raises:
            ConfigurationError: lists every fault.
        """
        return cls(Settings.from_env(os.environ if environ is None else environ), **options)

    async def __aenter__(self) -> Self:
        async with self._lock:
            if not self._entered:
                await self._open()
            self._entered += 1
            self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._lock:
            if not self._entered:
                raise NotOpen("this forge was left more often than it was entered")
            self._entered -= 1
            if not self._entered:
                self.is_open = False
                await self._close()

    @property
    def store(self) -> Store:
        """The store of the caches."""
        return self.components.store

    @property
    def store_service(self) -> str | None:
        """Name of the guard for `store`; None for a store in this process."""
        return self.components.store_service

    def guard(self, name: str) -> Guard:
        """Return the guard of the service `name`: deadline, retries, breaker and limits around calls to it."""
        return self.guards.get(name)

    async def generate(
        self, request: GenerationRequest, run: Callable[[], Awaitable[GenerationResult]], *, pipeline: str
    ) -> GenerationResult:
        """Send `request` through the layers.

        Args:
            request: the request.
            run: the pipeline; called if no layer answers.
            pipeline: its name, part of the cache key.

        Raises:
            BadRequest: the request is malformed; nothing was run, stored or recorded.
        """
        call = await self._new_call(request, run, pipeline)
        generation = _new_generation(self._observers)
        request_info = current_request.get()
        if request_info is not None:
            for label in request_info.degraded:
                generation.record_degraded(label)
        tokens = current_generation.set(generation), _current.set(self)
        try:
            reply = await self._call(call)
        except BaseException:
            if request_info is not None:
                request_info.has_failed_generation = True
            raise
        finally:
            current_generation.reset(tokens[0])
            _current.reset(tokens[1])
        record_cache_status(reply.source, is_stored=reply.is_stored, origin_id=reply.origin_id, age_s=reply.age_s)
        return replace(
            reply.result,
            source=reply.source,
            generation_id=generation.id,
            trace_id=generation.trace_id,
            component_id=call.component_id,
            cost_usd=generation.spent_usd,
            saved_usd=reply.saved_usd,
            degraded=tuple(generation.degraded),
        )

    def follow(
        self, request: GenerationRequest, *, pipeline: str = "generate", after: str = "", wait_s: float = 5.0
    ) -> AsyncGenerator[Progress, None]:
        """Yield the progress of the generation of `request` from its beginning, whichever process runs it.

        Args:
            request: as it was sent for generation.
            pipeline: the pipeline's name.
            after: id of the last event that the caller has received.
            wait_s: seconds to wait for a generation to begin.

        Raises:
            NotFound: no generation of the request is running or has ended a short while ago.
            GenerationTimeout: the generation reports no more progress.
            BadRequest: `after` is not the id of an event.
        """
        position = parse_event_id(after)
        key_of = functools.partial(
            generation_key_off_loop, request, pipeline=pipeline, version=self.settings.pipeline_version
        )
        return _events_of(key_of, lambda key: self._default.single_flight.follow(key, after=position, wait_s=wait_s))

    def follow_key(self, key: str, *, after: str = "", wait_s: float = 5.0) -> AsyncGenerator[Progress, None]:
        """Yield the progress of the generation of a key; see `follow`."""
        return self._default.single_flight.follow(key, after=parse_event_id(after), wait_s=wait_s)

    def running(self) -> list[str]:
        """Return the keys that are being generated or waited for in this process."""
        return self._default.single_flight.running()

    async def _new_call(
        self, request: GenerationRequest, run: Callable[[], Awaitable[GenerationResult]], pipeline: str
    ) -> Call:
        allowed = self.settings.component_types
        if allowed and request.component_type not in allowed:
            known = ", ".join(allowed)
            raise BadRequest(f"the component type {request.component_type[:64]!r} is not known; use one of {known}")
        digests, version = DigestMemo(), self.settings.pipeline_version
        key = await generation_key_off_loop(request, pipeline=pipeline, version=version, digests=digests)
        component_id = request.component_id or f"{_UNSAFE.sub('-', request.component_type)[:64]}-{key[:_KEY_DIGITS]}"
        return Call(request=request, pipeline=pipeline, key=key, component_id=component_id, run=run, digests=digests)

    def _build_outbox(self, sinks: Sequence[Sink]) -> Outbox:
        shutdown_timeout_s = self.settings.shutdown_timeout_s * options.OUTBOX_SHARE
        outbox = options.outbox(self.settings, self.components.outbox_dir, shutdown_timeout_s=shutdown_timeout_s)
        return Outbox([*sinks, self.recent], outbox)

    def _build_operations(self) -> Operations:
        return Operations(
            self.settings,
            components=self.components,
            telemetry=self.telemetry,
            guards=self.guards,
            outbox=self.outbox,
            recent=self.recent,
            budget=self.budget,
            purger=self.exact.purger,
            observers=self._observers,
            health=self._health,
            tasks=self._tasks,
            is_open=lambda: self.is_open,
        )

    async def _open(self) -> None:
        # In a thread: loading the price table and the exporters takes about half a second.
        await asyncio.to_thread(self.telemetry.start)
        async with AsyncExitStack() as opening:
            with self._tasks.watching():
                opening.callback(self._observers.register())
                for resource in self._default.resources:
                    await opening.enter_async_context(resource)
                if self.components.store_service is not None:
                    sharing = BreakerSharing(self.components.store, self.guards, carrier=self.components.store_service)
                    await opening.enter_async_context(sharing)
                await opening.enter_async_context(self._feedback)
                await opening.enter_async_context(self.outbox)
                await opening.enter_async_context(self._health)
                await opening.enter_async_context(self._default.single_flight)
            self._opened = opening.pop_all()
        _open_forges.append(self)

    async def _close(self) -> None:
        _open_forges.remove(self)
        until_s = time.monotonic() + self.settings.shutdown_timeout_s
        try:
            await self._opened.aclose()
        finally:
            # Spans are flushed last, with the time that the outbox has left over.
            least_s = self.settings.shutdown_timeout_s * options.SPANS_SHARE
            await asyncio.to_thread(self.telemetry.shutdown, max(until_s - time.monotonic(), least_s))


async def _events_of(
    key_of: Callable[[], Awaitable[str]], follow: Callable[[str], AsyncGenerator[Progress, None]]
) -> AsyncGenerator[Progress, None]:
    async with aclosing(follow(await key_of())) as found:
        async for event in found:
            yield event


def _new_generation(observers: Observers) -> Generation:
    return Generation(
        id=new_id(),
        started_at=datetime.now(UTC),
        started_s=time.monotonic(),
        on_degraded=observers.count_fallback,
    )


async def _run_pipeline(call: Call) -> Reply:
    token = current_call.set(call)
    try:
        result: object = await call.run()
    finally:
        current_call.reset(token)
    if not isinstance(result, GenerationResult):
        raise TypeError(f"the pipeline {call.pipeline!r} returned {type(result).__name__}, not a GenerationResult")
    generation = current_generation.get()
    if generation is None:
        return Reply(result=result)
    return Reply(result=result, cost_usd=generation.spent_usd, origin_id=generation.id)


_open_forges: list[Forge] = []
_current: ContextVar[Forge | None] = ContextVar("forge_current", default=None)


def current() -> Forge | None:
    """Return the open forge of the running generation, else the one that was opened last; None if none is open."""
    forge = _current.get()
    if forge is not None and forge.is_open:
        return forge
    return _open_forges[-1] if _open_forges else None


@functools.cache
def default() -> Forge:
    """Return the process default, built from the environment at the first call.

    Raises:
        ConfigurationError: lists every fault.
    """
    return Forge.from_env()
