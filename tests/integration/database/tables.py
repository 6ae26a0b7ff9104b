"""Tables of the database, and their rows."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from forge_otel.database.models import Base

GENERATIONS, COSTS, CACHE_STATS = (Base.metadata.tables[name] for name in ("generations", "costs", "cache_stats"))


async def rows(engine: AsyncEngine, table: Any) -> list[dict[str, Any]]:
    """All rows of a table, sorted by primary key."""
    async with engine.connect() as connection:
        found = await connection.execute(select(table).order_by(*table.primary_key.columns))
        return [dict(row._mapping) for row in found]
