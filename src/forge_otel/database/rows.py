"""`Record` → rows: what is written of a generation, its costs and the cache figures of its minute."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from forge_otel.types import Record, Usage

__all__ = ["Row", "cache_stat_rows", "cost_rows", "generation_row"]

Row = dict[str, Any]

_CACHED: Final = frozenset({"L1", "L2", "L3", "collapsed"})

T = TypeVar("T")


def generation_row(record: Record) -> Row:
    """Return the row of `generations`.

    Raises:
        ValueError: ``created_at`` is naive, and so names no moment.
    """
    if record.created_at.utcoffset() is None:
        raise ValueError("created_at has no timezone; say datetime.now(UTC)")
    usages = [cost.usage for cost in record.costs]
    return {
        "id": record.id,
        "created_at": record.created_at,
        "duration_s": record.duration_s,
        "outcome": _storable(record.outcome),
        "source": _storable(record.source),
        "pipeline": _storable(record.pipeline),
        "pipeline_version": _storable(record.pipeline_version),
        "component_type": _storable(record.component_type),
        "component_id": _storable(record.component_id),
        "key": record.key,
        "component_name": _storable(record.component_name),
        "figma_key": _storable(record.figma_key),
        "screenshot_hash": _storable(record.screenshot_hash),
        "content_hash": _storable(record.content_hash),
        "pattern_id": _storable(record.pattern_id),
        "user_id": _storable(record.user_id),
        "session_id": _storable(record.session_id),
        "tenant": _storable(record.tenant),
        "origin_id": record.origin_id,
        "cost_nano_usd": record.cost_usd,
        "saved_nano_usd": record.saved_usd,
        **_tokens(usages),
        "trace_id": record.trace_id,
        "langsmith_url": _storable(record.langsmith_url),
        "error_type": _storable(record.error_type),
        "error_message": _storable(record.error_message),
        "quality_score": _finite(record.quality_score),
        "misses": {_storable(layer): _storable(reason) for layer, reason in record.misses.items()},
        "degraded": [_storable(name) for name in record.degraded],
        "steps": [
            {
                "name": _storable(step.name),
                "kind": _storable(step.kind),
                "started_s": step.started_s,
                "duration_s": step.duration_s,
                "error_type": _storable(step.error_type),
            }
            for step in record.steps
        ],
        "artifact_refs": {_storable(name): _storable(ref) for name, ref in record.artifact_refs.items()},
    }


def cost_rows(record: Record) -> list[Row]:
    """Return the rows of `costs`, numbered in the order of the calls."""
    return [
        {
            "generation_id": record.id,
            "seq": seq,
            "api": _storable(cost.api),
            "model": _storable(cost.model),
            "agent": _storable(cost.agent),
            **_tokens([cost.usage]),
            "amount_nano_usd": cost.amount_usd,
        }
        for seq, cost in enumerate(record.costs)
    ]


def cache_stat_rows(records: Iterable[Record]) -> list[Row]:
    """Return what the records add to `cache_stats`: one row for each minute, layer and component type.

    A generation asked each layer that it missed, and the one that answered. The rows are in the order of their keys, so
    that two writers lock them in the same order and cannot wait for each other.
    """
    rows: dict[tuple[datetime, str, str], Row] = {}
    for record in records:
        minute = record.created_at.astimezone(UTC).replace(second=0, microsecond=0)
        asked = dict.fromkeys(_storable(layer) for layer in record.misses)
        is_cached = record.source in _CACHED
        for layer in (*asked, record.source) if is_cached else asked:
            key = (minute, layer, _storable(record.component_type))
            row = rows.setdefault(key, _empty_stat(*key))
            is_hit = is_cached and layer == record.source
            row["requests"] += 1
            row["hits"] += is_hit
            row["saved_nano_usd"] += record.saved_usd if is_hit else 0
    return [rows[key] for key in sorted(rows)]


def _empty_stat(minute: datetime, layer: str, component_type: str) -> Row:
    return {
        "minute": minute,
        "layer": layer,
        "component_type": component_type,
        "requests": 0,
        "hits": 0,
        "saved_nano_usd": Decimal(0),
    }


def _tokens(usages: list[Usage]) -> Row:
    return {
        "input_uncached_tokens": sum(usage.input_uncached for usage in usages),
        "cache_read_tokens": sum(usage.cache_read for usage in usages),
        "cache_write_tokens": sum(usage.cache_write for usage in usages),
        "output_tokens": sum(usage.output for usage in usages),
        "reasoning_tokens": sum(usage.reasoning for usage in usages),
    }


def _storable(text: T) -> T:
    """Replace what no database stores in a text: NUL on PostgreSQL, halves of surrogate pairs anywhere."""
    if not isinstance(text, str) or text.isprintable():
        return text
    cleaned = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass")
    return cleaned.decode("utf-16", "replace")  # type: ignore[return-value]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
