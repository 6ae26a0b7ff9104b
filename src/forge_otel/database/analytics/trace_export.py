"""Export of generations with their steps and costs, for analysis elsewhere."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

from forge_otel.database.models import CostRow, GenerationRow
from forge_otel.errors import needs

with needs("sql"):
    from sqlalchemy import and_, or_, select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["export_traces"]

_GENERATIONS: Final = GenerationRow.metadata.tables["generations"]
_COSTS: Final = CostRow.metadata.tables["costs"]
_PAGE: Final = 500


async def export_traces(
    engine: AsyncEngine,
    start: datetime | None = None,
    end: datetime | None = None,
    component_type: str | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Yield the generations that began in [`start`, `end`), oldest first, with their steps and costs.

    Args:
        engine: of our database.
        start, end: aware; None leaves the range open.
        component_type: only this type.
    """
    # From the database and not from spans: spans are sampled, while every generation is a row.
    table = _GENERATIONS.c
    where = [
        *([table.created_at >= start] if start is not None else []),
        *([table.created_at < end] if end is not None else []),
        *([table.component_type == component_type] if component_type is not None else []),
    ]
    # Paged by key, so that no transaction stays open and memory use does not grow with the range.
    ordered = select(_GENERATIONS).where(*where).order_by(table.created_at, table.id).limit(_PAGE)
    query = ordered
    while True:
        async with engine.connect() as connection:
            page = [dict(row) for row in (await connection.execute(query)).mappings()]
            costs = await _costs(connection, [row["id"] for row in page])
        for row in page:
            yield _line(row, costs.get(row["id"], []))
        if len(page) < _PAGE:
            return
        last = page[-1]
        later = and_(table.created_at == last["created_at"], table.id > last["id"])
        query = ordered.where(or_(table.created_at > last["created_at"], later))


async def _costs(connection: AsyncConnection, ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    query = select(_COSTS).where(_COSTS.c.generation_id.in_(ids)).order_by(_COSTS.c.generation_id, _COSTS.c.seq)
    for row in (await connection.execute(query)).mappings():
        cost = dict(row)
        cost["amount_usd"] = cost.pop("amount_nano_usd")
        found.setdefault(cost.pop("generation_id"), []).append(cost)
    return found


def _line(row: dict[str, Any], costs: list[dict[str, Any]]) -> dict[str, Any]:
    line = {name.replace("_nano_usd", "_usd"): value for name, value in row.items()}
    return line | {"costs": costs}
