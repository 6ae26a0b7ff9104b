"""`Record` → rows, as tuples in the order of the columns named here: objects of the tables' classes cost 20 x as much.

Money is a whole number of nano-dollars, JSON is text, times are aware and in UTC.
"""

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from itertools import compress
from operator import attrgetter, itemgetter
from typing import Any, Final, Self, TypeVar

import orjson

from forge_otel.types import Record, Step, Usage

__all__ = [
    "CACHE_STAT_COLUMNS",
    "COST_COLUMNS",
    "GENERATION_COLUMNS",
    "MappedRows",
    "Row",
    "asked_layers",
    "cache_stat_rows",
    "picked",
]

Row = tuple[Any, ...]

_TOKENS: Final = (
    "input_uncached_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
# What comes from outside, and may hold any character.
_TEXTS: Final = (
    *("outcome", "source", "pipeline", "pipeline_version", "component_type", "component_id", "component_name"),
    *("figma_key", "screenshot_hash", "content_hash", "pattern_id", "user_id", "session_id", "tenant"),
    *("langsmith_url", "error_type", "error_message"),
)
GENERATION_COLUMNS: Final = (
    *("id", "created_at", "duration_s", "key", "origin_id", "trace_id", *_TEXTS, "cost_nano_usd", "saved_nano_usd"),
    *(*_TOKENS, "quality_score", "similarity", "misses", "degraded", "steps", "artifact_refs"),
)
COST_COLUMNS: Final = ("generation_id", "seq", "api", "model", "agent", *_TOKENS, "amount_nano_usd")
CACHE_STAT_COLUMNS: Final = ("minute", "layer", "component_type", "requests", "hits", "saved_nano_usd")

_CACHED: Final = frozenset({"L1", "L2", "L3", "collapsed"})
_NANO: Final = Decimal(10) ** 9
# As JSON spells it; where it is an escaped backslash and not a NUL, looking closer does no harm.
_NUL: Final = b"\\u0000"

_TEXTS_OF: Final = attrgetter(*_TEXTS)
_TOKENS_OF: Final = attrgetter("input_uncached", "cache_read", "cache_write", "output", "reasoning")
_NO_TOKENS: Final = (0,) * len(_TOKENS)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MappedRows:
    """A batch of records as rows, in the order of the ids: two writers of the same ones lock them alike.

    Args:
        rows: of `generations`.
        costs: of `costs`, for each of the rows.
    """

    rows: list[Row]
    costs: list[list[Row]]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """Turn records into rows, one after the other: each may be forgotten before the next one is read.

        Args:
            records: in any order; of those with the same id the last one counts.

        Raises:
            ValueError: `created_at` of a record is naive, and so names no moment.
        """
        made = {record.id: (_generation_row(record), _cost_rows(record)) for record in records}
        ordered = [made[id_] for id_ in sorted(made)]
        return cls([row for row, _ in ordered], [costs for _, costs in ordered])

    def only(self, ids: Container[str]) -> Self:
        """Return what there is of these generations."""
        chosen = [row[0] in ids for row in self.rows]
        return type(self)([*compress(self.rows, chosen)], [*compress(self.costs, chosen)])


def picked(*columns: str) -> Callable[[Row], Row]:
    """Return what picks the values of columns out of a row of `generations`."""
    return itemgetter(*(GENERATION_COLUMNS.index(name) for name in columns))


def cache_stat_rows(rows: Iterable[Row]) -> list[Row]:
    """Return what generations add to `cache_stats`: one row for each minute, layer and component type.

    A generation asked each layer that it missed, and the one that answered. The rows are in the order of their keys, so
    that two writers lock them in the same order and cannot wait for each other.

    Args:
        rows: of `generations`.
    """
    sums: dict[tuple[int, str, str], list[int]] = {}
    for created_at, component_type, source, misses, saved in map(_LOOKED_UP, rows):
        minute = int(created_at.timestamp()) // 60
        for layer, is_hit in _asked(misses, source):
            key = (minute, layer, component_type)
            row = sums.get(key)
            if row is None:
                row = sums[key] = [0, 0, 0]
            row[0] += 1
            if is_hit:
                row[1] += 1
                row[2] += saved
    return [
        (datetime.fromtimestamp(60 * minute, UTC), layer, component_type, *sums[minute, layer, component_type])
        for minute, layer, component_type in sorted(sums)
    ]


def asked_layers(misses: Iterable[str], source: str) -> dict[str, bool]:
    """Return the cache layers that a generation asked, and whether each was the one that answered."""
    asked = {_storable(layer): False for layer in misses}
    if source in _CACHED:
        asked[source] = True
    return asked


@lru_cache(maxsize=1024)
def _asked(misses: str, source: str) -> tuple[tuple[str, bool], ...]:
    # They are read from what was written, because most batches hold the same few again and again.
    return tuple(asked_layers(orjson.loads(misses), source).items())


def _generation_row(record: Record) -> Row:
    if record.created_at.utcoffset() is None:
        raise ValueError("created_at has no timezone; say datetime.now(UTC)")
    return (
        record.id,
        record.created_at.astimezone(UTC),
        record.duration_s,
        record.key,
        record.origin_id,
        record.trace_id,
        *_storable_all(_TEXTS_OF(record)),
        _nano_usd(record.cost_usd),
        _nano_usd(record.saved_usd),
        *_tokens([cost.usage for cost in record.costs]),
        _finite(record.quality_score),
        _finite(record.similarity),
        _json(record.misses),
        _json(record.degraded),
        _json(record.steps),
        _json(record.artifact_refs),
    )


def _cost_rows(record: Record) -> list[Row]:
    """Return the rows of `costs`, numbered in the order of the calls."""
    return [
        (
            record.id,
            seq,
            *_storable_all((cost.api, cost.model, cost.agent)),
            *_TOKENS_OF(cost.usage),
            None if cost.amount_usd is None else _nano_usd(cost.amount_usd),
        )
        for seq, cost in enumerate(record.costs)
    ]


def _nano_usd(amount: Decimal) -> int:
    # Half to even.
    return round(amount * _NANO) if amount else 0


def _storable(text: T) -> T:
    """Replace what no database stores in a text: NUL on PostgreSQL, halves of surrogate pairs anywhere."""
    if not isinstance(text, str) or text.isprintable():
        return text
    cleaned = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass")
    return cleaned.decode("utf-16", "replace")  # type: ignore[return-value]


def _storable_all(texts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make each of several texts storable; looking at them together is quick."""
    try:
        are_plain = "".join(filter(None, texts)).isprintable()
    except TypeError:
        are_plain = False
    return texts if are_plain else tuple(map(_storable, texts))


def _tokens(usages: list[Usage]) -> tuple[int, ...]:
    if len(usages) == 1:
        return _TOKENS_OF(usages[0])
    return tuple(map(sum, zip(*map(_TOKENS_OF, usages), strict=True))) if usages else _NO_TOKENS


def _json(value: Any) -> str:
    try:
        text = orjson.dumps(value, default=dict)
    except orjson.JSONEncodeError:
        # Half of a surrogate pair.
        return _json(_storable_inside(value))
    return _json(_storable_inside(value)) if _NUL in text else text.decode()


def _storable_inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_storable(name): _storable_inside(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_storable_inside(inner) for inner in value]
    if isinstance(value, Step):
        return _storable_inside({item.name: getattr(value, item.name) for item in fields(value)})
    return _storable(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


_LOOKED_UP: Final = picked("created_at", "component_type", "source", "misses", "saved_nano_usd")
