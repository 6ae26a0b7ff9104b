"""Mapping of records to database rows: plain tuples in the order of the column tuples defined here.

The columns follow from the fields of `Record`, `Cost` and `Usage`: the type of a field decides its conversion. A new
field is added to the record, to the table in `forge_otel.database.models`, and in a migration.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC
from decimal import Decimal
from itertools import compress
from math import isfinite
from operator import attrgetter, itemgetter
from types import UnionType
from typing import Any, Final, Self, TypeVar

import orjson

from forge_otel.types import Cost, Record, Step, Usage

__all__ = ["COST_COLUMNS", "GENERATION_COLUMNS", "MappedRows", "Row", "picked"]

# Tuples, because instances of the table classes take 20 times as long to make.
Row = tuple[Any, ...]
Tokens = tuple[int, ...]
T = TypeVar("T")

# `round` is half to even.
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
# Made by this library from plain characters; all other texts come from outside and may hold any character.
_IDS: Final = ("key", "origin_id", "trace_id")
_TEXTS: Final = tuple(name for name in _fields_of(Record, str, _OPTIONAL_TEXT) if name not in {"id", *_IDS})
_MONEY: Final = _fields_of(Record, Decimal)
_NUMBERS: Final = _fields_of(Record, float | None)
_JSONS: Final = _fields_of(Record, Mapping[str, str], tuple[str, ...], tuple[Step, ...])
_USAGE: Final = _fields_of(Usage, int)
_TOKENS: Final = tuple(f"{name}_tokens" for name in _USAGE)
_COST_TEXTS: Final = _fields_of(Cost, str)

GENERATION_COLUMNS: Final = (
    *("id", "created_at", "duration_s"),
    *(*_IDS, *_TEXTS, *map(_money_column, _MONEY), *_TOKENS, *_NUMBERS, *_JSONS),
)
COST_COLUMNS: Final = ("generation_id", "seq", *_COST_TEXTS, *_TOKENS, "amount_nano_usd")

_IDS_OF: Final = attrgetter(*_IDS)
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
        """Map records to rows.

        Args:
            records: in any order; of several with the same id the last one is used.

        Raises:
            ValueError: `created_at` of a record is naive.
        """
        # One record at a time, so that each can be freed at once.
        made = {record.id: _mapped(record) for record in records}
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
    # The usual case: printable text has neither.
    if not isinstance(text, str) or text.isprintable():
        return text
    # UTF-16 joins two surrogates that form one character, so that only lone ones are replaced.
    cleaned = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass")
    return cleaned.decode("utf-16", "replace")  # type: ignore[return-value]


def _mapped(record: Record) -> tuple[Row, list[Row]]:
    tokens = [_TOKENS_OF(cost.usage) for cost in record.costs]
    return _generation_row(record, tokens), _cost_rows(record, tokens)


def _generation_row(record: Record, tokens: list[Tokens]) -> Row:
    created_at = record.created_at
    if created_at.tzinfo is not UTC:
        if created_at.utcoffset() is None:
            raise ValueError("created_at has no timezone; use datetime.now(UTC)")
        created_at = created_at.astimezone(UTC)
    return (
        record.id,
        created_at,
        record.duration_s,
        *_IDS_OF(record),
        *_storable_all(_TEXTS_OF(record)),
        *[round(amount * _NANO) if amount else 0 for amount in _MONEY_OF(record)],
        *_total(tokens),
        *[None if number is None or not isfinite(number) else number for number in _NUMBERS_OF(record)],
        *map(_json, _JSONS_OF(record)),
    )


def _cost_rows(record: Record, tokens: list[Tokens]) -> list[Row]:
    """Return the rows of `costs`, numbered in the order of the calls."""
    return [
        (
            record.id,
            seq,
            *_storable_all(_COST_TEXTS_OF(cost)),
            *tokens[seq],
            None if cost.amount_usd is None else round(cost.amount_usd * _NANO),
        )
        for seq, cost in enumerate(record.costs)
    ]


def _storable_all(texts: tuple[Any, ...]) -> tuple[Any, ...]:
    # One check of all texts together is much quicker than one for each.
    try:
        are_plain = "".join(filter(None, texts)).isprintable()
    except TypeError:
        are_plain = False
    return texts if are_plain else tuple(map(_storable, texts))


def _total(tokens: list[Tokens]) -> Tokens:
    if len(tokens) == 1:
        return tokens[0]
    return tuple(map(sum, zip(*tokens, strict=True))) if tokens else _NO_TOKENS


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
