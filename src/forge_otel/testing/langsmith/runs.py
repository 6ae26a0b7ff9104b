"""Conversion of OTLP spans to runs by LangSmith's documented mapping.

Behaviour of the server beyond its table ("Trace with OpenTelemetry") is not reproduced.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from forge_otel.errors import needs

with needs("langsmith"):
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["LangSmithRun", "reduce_runs", "reduce_to_runs"]

_RUN_TYPES: Final = frozenset({"llm", "chain", "tool", "retriever", "embedding", "prompt", "parser"})
_RUN_TYPE_BY_OPERATION: Final = {
    "chat": "llm",
    "text_completion": "llm",
    "embeddings": "embedding",
    "embedding": "embedding",
}
# Spelt out here and not taken from `forge_otel.telemetry`, so that tests of the exporter compare two readings of
# LangSmith's table.
_METADATA: Final = "langsmith.metadata."
_INPUTS: Final = ("gen_ai.prompt", "gen_ai.input.messages", "input.value", "traceloop.entity.input")
_OUTPUTS: Final = ("gen_ai.completion", "gen_ai.output.messages", "output.value", "traceloop.entity.output")
_THREAD: Final = ("session_id", "conversation_id", "thread_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class LangSmithRun:
    """One run.

    Args:
        id: span id of 16 hex digits; a UUID for a run of the `langsmith` client.
        parent_id: id of the parent run; "" at a root.
        type: LangSmith's run type.
        usage: `input_tokens`, `output_tokens`, `total_cost` … of `langsmith.usage_metadata`, else of `gen_ai.usage.*`.
        thread: id of the conversation; "" without one.
        project: tracing project.
        error: message of the exception event; None without one.
        order: sort key of runs of the `langsmith` client.
    """

    id: str
    parent_id: str
    trace_id: str
    name: str
    type: str
    start_ns: int
    end_ns: int
    inputs: Any = None
    outputs: Any = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thread: str = ""
    user: str = ""
    project: str = ""
    error: str | None = None
    order: str = ""


def reduce_to_runs(spans: Iterable[tuple[Span, str]]) -> list[LangSmithRun]:
    """Return the runs of spans by start time, without those that have a missing ancestor.

    Args:
        spans: each with the project that it was posted to.
    """
    return reduce_runs(_run(span, project) for span, project in spans)


def reduce_runs(runs: Iterable[LangSmithRun]) -> list[LangSmithRun]:
    """Return each run once, by start time, without those that have a missing ancestor."""
    # A request whose response was lost is sent again with the same span ids.
    by_id = {run.id: run for run in runs}
    kept = [run for run in by_id.values() if _has_root(run, by_id)]
    return sorted(kept, key=lambda run: (run.start_ns, run.order))


def _has_root(run: LangSmithRun, by_id: Mapping[str, LangSmithRun]) -> bool:
    seen = set()
    while run.parent_id:
        parent = by_id.get(run.parent_id)
        if parent is None or parent.id in seen or parent.trace_id != run.trace_id:
            return False
        seen.add(parent.id)
        run = parent
    return True


def _run(span: Span, project: str) -> LangSmithRun:
    attributes = _attributes(span.attributes)
    metadata = {name.removeprefix(_METADATA): value for name, value in attributes.items() if name.startswith(_METADATA)}
    return LangSmithRun(
        id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        trace_id=span.trace_id.hex(),
        name=str(attributes.get("langsmith.trace.name") or span.name),
        type=_type(attributes),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        inputs=_content(attributes, _INPUTS),
        outputs=_content(attributes, _OUTPUTS),
        usage=_usage(attributes),
        tags=tuple(tag for tag in str(attributes.get("langsmith.span.tags", "")).split(",") if tag),
        metadata=metadata,
        thread=str(next((metadata[name] for name in _THREAD if name in metadata), "")),
        user=str(metadata.get("user_id", "")),
        # LangSmith's API calls a project a session.
        project=str(attributes.get("langsmith.trace.session_name") or project),
        error=_error(span),
    )


def _type(attributes: Mapping[str, Any]) -> str:
    kind = str(attributes.get("langsmith.span.kind", "")).lower()
    if kind in _RUN_TYPES:
        return kind
    if "gen_ai.tool.name" in attributes:
        return "tool"
    return _RUN_TYPE_BY_OPERATION.get(str(attributes.get("gen_ai.operation.name")), "chain")


def _usage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    metadata = attributes.get("langsmith.usage_metadata")
    if isinstance(metadata, str):
        return dict(json.loads(metadata))
    flat = {name: attributes.get(f"gen_ai.usage.{name}") for name in ("input_tokens", "output_tokens", "total_tokens")}
    return {name: value for name, value in flat.items() if value is not None}


def _content(attributes: Mapping[str, Any], names: Iterable[str]) -> Any:
    value = next((attributes[name] for name in names if name in attributes), None)
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _error(span: Span) -> str | None:
    # LangSmith does not read the status.
    for event in span.events:
        if event.name == "exception":
            return str(_attributes(event.attributes).get("exception.message", ""))
    return None


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)
