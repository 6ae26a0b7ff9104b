"""Aggregation of the generations in part of an hour, with the figures that `rollups` holds for whole hours."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from forge_otel.database.models import Base
from forge_otel.database.rollups import MAX_NAME_CHARS, bucket_of, layer_requests
from forge_otel.errors import needs

with needs("sql"):
    from sqlalchemy import BigInteger, ColumnElement, Integer, Select, case, func, literal_column, select, type_coerce
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Counted", "count", "query"]

_GENERATIONS: Final = Base.metadata.tables["generations"]
_ROW: Final = _GENERATIONS.c
_COST: Final = Base.metadata.tables["costs"].c

Keys = dict[str, Any]
Counted = list[tuple[Keys, Sequence[int]]]
Where = Sequence[ColumnElement[bool]]


async def count(connection: AsyncConnection, where: Where, facets: Sequence[str]) -> Counted:
    """Return the key columns of each row that `rollups` would have, and its count, hits, cost and saved.

    Args:
        connection: of our database.
        where: conditions on the generations.
        facets: the facets to return.
    """
    found: Counted = []
    for facet in facets:
        rows = await connection.execute(query(facet, where))
        found += [
            ({"facet": facet, "component_type": kind, "name": name, "bucket": bucket}, values)
            for kind, name, bucket, *values in _READERS.get(facet, _unchanged)(rows)
        ]
    return found


def query(facet: str, where: Where) -> Select[Any]:
    """Return the query of a facet."""
    selected, groups = _queries()[facet]
    return selected.where(*where).group_by(*groups)


@cache
def _queries() -> Mapping[str, tuple[Select[Any], Sequence[Any]]]:
    """Return for each facet the query and the columns to group by."""
    kind, is_ok = _ROW.component_type, _ROW.outcome == "ok"
    # As integers, because the type of the columns would convert every sum to a Decimal.
    cost, saved, amount = (
        type_coerce(column, BigInteger) for column in (_ROW.cost_nano_usd, _ROW.saved_nano_usd, _COST.amount_nano_usd)
    )
    none = literal_column("0", Integer)
    flag = case((is_ok, 1), else_=0).label("bucket")
    unpriced = case((_COST.amount_nano_usd.is_(None), 1), else_=0).label("bucket")
    outcome = func.coalesce(func.nullif(_ROW.error_type, ""), _ROW.outcome)
    error, api = (func.substr(text, 1, MAX_NAME_CHARS).label("name") for text in (outcome, _COST.api))
    # Grouped by labels, because databases do not recognize two expressions with parameters as equal.
    answers = select(kind, _ROW.source, flag, func.count(), none, func.sum(cost), func.sum(saved))
    costs = select(kind, api, unpriced, func.count(), none, func.coalesce(func.sum(amount), none), none)
    errors = select(kind, error, none, func.count(), none, none, none)
    joined = costs.join_from(_GENERATIONS, _COST.api.table, _COST.generation_id == _ROW.id)
    return {
        "answers": (answers, (kind, _ROW.source, "bucket")),
        "costs": (joined, (kind, "name", "bucket")),
        "errors": (errors.where(~is_ok), (kind, "name")),
        "latency": (select(kind, _ROW.source, _ROW.duration_s).where(is_ok), ()),
        "layers": (select(kind, _ROW.source, _ROW.misses, saved), ()),
    }


def _unchanged(rows: Iterable[Any]) -> Iterable[Any]:
    return rows


def _duration_rows(rows: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for kind, source, duration_s in rows:
        yield kind, source, bucket_of(duration_s), 1, 0, 0, 0


def _layer_rows(rows: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for kind, source, misses, saved in rows:
        # Counted here and not in SQL: the layers are the names in a JSON column.
        for layer, is_hit in layer_requests(misses, source).items():
            yield kind, layer[:MAX_NAME_CHARS], 0, 1, int(is_hit), 0, saved if is_hit else 0


_READERS: Final[Mapping[str, Callable[[Iterable[Any]], Iterable[Any]]]] = {
    "latency": _duration_rows,
    "layers": _layer_rows,
}
