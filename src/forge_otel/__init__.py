"""Tracing, metrics, caching, records and resilience for services that run generative-AI pipelines.

The module-level decorators do what those of a `Forge` do, on the open forge of the running code. They look it up at
each call, so functions can be decorated at import time; without an open forge a decorated function runs as it is.
"""

from importlib.metadata import version

from forge_otel._runtime.pipeline import Generate, PipelineDecorator
from forge_otel.context import extract, inject
from forge_otel.errors import ForgeError
from forge_otel.forge import Forge, current
from forge_otel.settings import Settings
from forge_otel.telemetry.spans.decorators import Spans
from forge_otel.telemetry.spans.span_handle import SpanRecorder
from forge_otel.types import Call, GenerationRequest, GenerationResult, Layer, Record, Reply, Sink, Store
from forge_otel.web.middleware import ForgeMiddleware

__all__ = [
    "Call",
    "Forge",
    "ForgeError",
    "ForgeMiddleware",
    "GenerationRequest",
    "GenerationResult",
    "Layer",
    "Record",
    "Reply",
    "Settings",
    "Sink",
    "Store",
    "agent",
    "extract",
    "generation",
    "inject",
    "record_usage",
    "span",
    "step",
    "tool",
]

__version__ = version("forge-otel")


def _span_recorder() -> SpanRecorder | None:
    forge = current()
    return None if forge is None else forge.telemetry.span_recorder


def _generate() -> Generate | None:
    forge = current()
    return None if forge is None else forge.generate


_spans = Spans(_span_recorder)
agent = _spans.agent
tool = _spans.tool
step = _spans.step
span = _spans.span
record_usage = _spans.record_usage

generation = PipelineDecorator(_generate)
