"""`Record` → rows, as tuples in the order of the columns named here: objects of the tables' classes cost 20 x as much.

Money is a whole number of nano-dollars, JSON is text, times are aware and in UTC.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, TypeVar

import orjson

from forge_otel.types import Record, Step, Usage

__all__ = [
    "CACHE_STAT_COLUMNS",
    "COST_COLUMNS",
    "GENERATION_COLUMNS",
    "Row",
    "Rowed",
    "asked_layers",
    "cache_stat_rows",
    "cost_rows",
    "generation_row",
    "nano_usd",
    "storable",
]

Row = tuple[Any, ...]

_TOKENS: Final = (
    "input_uncached_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
GENERATION_COLUMNS: Final = (
    *("id", "created_at", "duration_s", "outcome", "source", "pipeline", "pipeline_version", "component_type"),
    *("component_id", "key", "component_name", "figma_key", "screenshot_hash", "content_hash", "pattern_id"),
    *("user_id", "session_id", "tenant", "origin_id", "cost_nano_usd", "saved_nano_usd", *_TOKENS, "trace_id"),
    *("langsmith_url", "error_type", "error_message", "quality_score", "misses", "degraded", "steps", "artifact_refs"),
    "similarity",
)
COST_COLUMNS: Final = ("generation_id", "seq", "api", "model", "agent", *_TOKENS, "amount_nano_usd")
CACHE_STAT_COLUMNS: Final = ("minute", "layer", "component_type", "requests", "hits", "saved_nano_usd")

_CACHED: Final = frozenset({"L1", "L2", "L3", "collapsed"})
_NANO: Final = Decimal(10) ** 9
# As JSON spells it; where it is an escaped backslash and not a NUL, looking closer does no harm.
_NUL: Final = b"\\u0000"

T = TypeVar("T")


class Rowed:
    """A batch of records and their rows, in the order of the ids: two writers of the same ones lock them alike.

    Args:
        records: in any order; of those with the same id the last one counts.

    Raises:
        ValueError: a record has no row; see `generation_row`.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = {record.id: record for record in sorted(records, key=lambda record: record.id)}
        self.rows = [generation_row(record) for record in self.records.values()]


def generation_row(record: Record) -> Row:
    """Return the row of `generations`.

    Raises:
        ValueError: ``created_at`` is naive, and so names no moment.
    """
    if record.created_at.utcoffset() is None:
        raise ValueError("created_at has no timezone; say datetime.now(UTC)")
    return (
        record.id,
        record.created_at.astimezone(UTC),
        record.duration_s,
        storable(record.outcome),
        storable(record.source),
        storable(record.pipeline),
        storable(record.pipeline_version),
        storable(record.component_type),
        storable(record.component_id),
        record.key,
        storable(record.component_name),
        storable(record.figma_key),
        storable(record.screenshot_hash),
        storable(record.content_hash),
        storable(record.pattern_id),
        storable(record.user_id),
        storable(record.session_id),
        storable(record.tenant),
        record.origin_id,
        nano_usd(record.cost_usd),
        nano_usd(record.saved_usd),
        *_tokens([cost.usage for cost in record.costs]),
        record.trace_id,
        storable(record.langsmith_url),
        storable(record.error_type),
        storable(record.error_message),
        _finite(record.quality_score),
        _json(record.misses),
        _json(record.degraded),
        _json(record.steps),
        _json(record.artifact_refs),
        _finite(record.similarity),
    )


def cost_rows(record: Record) -> list[Row]:
    """Return the rows of `costs`, numbered in the order of the calls."""
    return [
        (
            record.id,
            seq,
            storable(cost.api),
            storable(cost.model),
            storable(cost.agent),
            *_tokens([cost.usage]),
            None if cost.amount_usd is None else nano_usd(cost.amount_usd),
        )
        for seq, cost in enumerate(record.costs)
    ]


def cache_stat_rows(records: Iterable[Record]) -> list[Row]:
    """Return what the records add to `cache_stats`: one row for each minute, layer and component type.

    A generation asked each layer that it missed, and the one that answered. The rows are in the order of their keys, so
    that two writers lock them in the same order and cannot wait for each other.
    """
    sums: dict[tuple[int, str, str], list[int]] = {}
    for record in records:
        minute = int(record.created_at.timestamp()) // 60
        component_type = storable(record.component_type)
        for layer, is_hit in asked_layers(record.misses, record.source).items():
            key = (minute, layer, component_type)
            row = sums.get(key)
            if row is None:
                row = sums[key] = [0, 0, 0]
            row[0] += 1
            if is_hit:
                row[1] += 1
                row[2] += nano_usd(record.saved_usd)
    return [
        (datetime.fromtimestamp(60 * minute, UTC), layer, component_type, *sums[minute, layer, component_type])
        for minute, layer, component_type in sorted(sums)
    ]


def asked_layers(misses: Iterable[str], source: str) -> dict[str, bool]:
    """Return the cache layers that a generation asked, and whether each was the one that answered."""
    asked = {storable(layer): False for layer in misses}
    if source in _CACHED:
        asked[source] = True
    return asked


def nano_usd(amount: Decimal) -> int:
    """Return nano-dollars, rounded half to even."""
    return int((amount * _NANO).to_integral_value(ROUND_HALF_EVEN)) if amount else 0


def storable(text: T) -> T:
    """Replace what no database stores in a text: NUL on PostgreSQL, halves of surrogate pairs anywhere."""
    if not isinstance(text, str) or text.isprintable():
        return text
    cleaned = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass")
    return cleaned.decode("utf-16", "replace")  # type: ignore[return-value]


def _tokens(usages: list[Usage]) -> tuple[int, ...]:
    if len(usages) == 1:
        [usage] = usages
        return usage.input_uncached, usage.cache_read, usage.cache_write, usage.output, usage.reasoning
    return (
        sum(usage.input_uncached for usage in usages),
        sum(usage.cache_read for usage in usages),
        sum(usage.cache_write for usage in usages),
        sum(usage.output for usage in usages),
        sum(usage.reasoning for usage in usages),
    )


def _json(value: Any) -> str:
    try:
        text = orjson.dumps(value, default=dict)
    except orjson.JSONEncodeError:
        # Half of a surrogate pair.
        return _json(_storable_inside(value))
    return _json(_storable_inside(value)) if _NUL in text else text.decode()


def _storable_inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {storable(name): _storable_inside(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_storable_inside(inner) for inner in value]
    if isinstance(value, Step):
        return _storable_inside({item.name: getattr(value, item.name) for item in fields(value)})
    return storable(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
