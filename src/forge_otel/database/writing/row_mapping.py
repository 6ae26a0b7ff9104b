"""Mapping of records to database rows: plain tuples in the order of the column tuples defined here.

The columns follow from the fields of `Record`, `Cost` and `Usage`: the type of a field decides its conversion. A new
field is added to the record, to the table in `forge_otel.database.models`, and in a migration.
"""

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC
from decimal import Decimal
from itertools import compress
from operator import attrgetter, itemgetter
from types import UnionType
from typing import Any, Final, Self, TypeVar

import orjson

from forge_otel.types import Cost, Record, Step, Usage

__all__ = ["COST_COLUMNS", "GENERATION_COLUMNS", "MappedRows", "Row", "picked"]

# Tuples, because instances of the table classes take 20 times as long to make.
Row = tuple[Any, ...]
T = TypeVar("T")

_NANO: Final = Decimal(10) ** 9
# A NUL as JSON spells it. The same bytes may also be an escaped backslash; the second pass then changes nothing.
_NUL: Final = b"\\u0000"


def _fields_of(kind: type[Any], *types: type[Any] | UnionType) -> tuple[str, ...]:
    """Return the names of the fields of `kind` that have one of `types`."""
    return tuple(item.name for item in fields(kind) if item.type in types)


def _money_column(field: str) -> str:
    # Money is stored as whole nano-dollars.
    return field.replace("_usd", "_nano_usd")


_OPTIONAL_TEXT: Final = str | None
_TEXTS: Final = tuple(name for name in _fields_of(Record, str, _OPTIONAL_TEXT) if name != "id")
_MONEY: Final = _fields_of(Record, Decimal)
_NUMBERS: Final = _fields_of(Record, float | None)
_JSONS: Final = _fields_of(Record, Mapping[str, str], tuple[str, ...], tuple[Step, ...])
_USAGE: Final = _fields_of(Usage, int)
_TOKENS: Final = tuple(f"{name}_tokens" for name in _USAGE)
_COST_TEXTS: Final = _fields_of(Cost, str)

GENERATION_COLUMNS: Final = (
    *("id", "created_at", "duration_s"),
    *(*_TEXTS, *map(_money_column, _MONEY), *_TOKENS, *_NUMBERS, *_JSONS),
)
COST_COLUMNS: Final = ("generation_id", "seq", *_COST_TEXTS, *_TOKENS, "amount_nano_usd")

_TEXTS_OF: Final = attrgetter(*_TEXTS)
_MONEY_OF: Final = attrgetter(*_MONEY)
_NUMBERS_OF: Final = attrgetter(*_NUMBERS)
_JSONS_OF: Final = attrgetter(*_JSONS)
_TOKENS_OF: Final = attrgetter(*_USAGE)
_COST_TEXTS_OF: Final = attrgetter(*_COST_TEXTS)
_NO_TOKENS: Final = (0,) * len(_TOKENS)


@dataclass(frozen=True, slots=True)
class MappedRows:
    """A batch of records as rows, sorted by id.

    Args:
        rows: of `generations`.
        costs: rows of `costs`, one list for each generation.
    """

    rows: list[Row]
    costs: list[list[Row]]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """Map records to rows. The iterable is consumed one record at a time, so that each can be freed at once.

        Args:
            records: in any order; of several with the same id the last one is used.

        Raises:
            ValueError: `created_at` of a record is naive.
        """
        made = {record.id: (_generation_row(record), _cost_rows(record)) for record in records}
        # Two writers of the same records lock them in the same order, and cannot deadlock.
        ordered = [made[id_] for id_ in sorted(made)]
        return cls([row for row, _ in ordered], [costs for _, costs in ordered])

    def only(self, ids: Container[str]) -> Self:
        """Return the rows of these generations."""
        chosen = [row[0] in ids for row in self.rows]
        return type(self)([*compress(self.rows, chosen)], [*compress(self.costs, chosen)])


def picked(*columns: str) -> Callable[[Row], Row]:
    """Return a function that picks the values of `columns` out of a row of `generations`."""
    return itemgetter(*(GENERATION_COLUMNS.index(name) for name in columns))


def _storable(text: T) -> T:
    """Replace the characters that a database cannot store: NUL on PostgreSQL, lone surrogates anywhere.

    A value that is not a string is returned unchanged.
    """
    if not isinstance(text, str) or text.isprintable():
        return text
    cleaned = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass")
    return cleaned.decode("utf-16", "replace")  # type: ignore[return-value]


def _generation_row(record: Record) -> Row:
    if record.created_at.utcoffset() is None:
        raise ValueError("created_at has no timezone; use datetime.now(UTC)")
    return (
        record.id,
        record.created_at.astimezone(UTC),
        record.duration_s,
        *_storable_all(_TEXTS_OF(record)),
        *map(_nano_usd, _MONEY_OF(record)),
        *_tokens([cost.usage for cost in record.costs]),
        *map(_finite, _NUMBERS_OF(record)),
        *map(_json, _JSONS_OF(record)),
    )


def _cost_rows(record: Record) -> list[Row]:
    """Return the rows of `costs`, numbered in the order of the calls."""
    return [
        (
            record.id,
            seq,
            *_storable_all(_COST_TEXTS_OF(cost)),
            *_TOKENS_OF(cost.usage),
            None if cost.amount_usd is None else _nano_usd(cost.amount_usd),
        )
        for seq, cost in enumerate(record.costs)
    ]


def _nano_usd(amount: Decimal) -> int:
    # Half to even.
    return round(amount * _NANO) if amount else 0


def _storable_all(texts: tuple[Any, ...]) -> tuple[Any, ...]:
    # One check of all texts together is much quicker than one for each.
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
        # orjson refuses lone surrogates.
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
