"""`forge-otel why`: who answered a generation, which caches were asked before, and why they did not answer."""

import asyncio
import os
from argparse import Namespace
from typing import Any, Final

from forge_otel.cli._database import open_database, read
from forge_otel.errors import NotFound
from forge_otel.settings import Settings

__all__ = ["add"]

_MEANINGS: Final = {
    "cold": "nothing like it was asked before",
    "version": "another pipeline, or another version of it, answered before",
    "content": "the design has changed",
    "tokens": "the design tokens differ from the nearest earlier request",
    "requirements": "the requirements differ from the nearest earlier request",
    "pattern": "another pattern was asked for",
    "epoch": "the answer was invalidated",
    "expired": "the answer's life was over",
    "evicted": "the answer is no longer in the store",
    "corrupt": "the entry was damaged, foreign, or made with another secret",
    "backend_down": "the store could not be asked",
}


def add(commands: Any) -> None:
    """Add the command."""
    why = commands.add_parser("why", help="say why a generation was or was not answered by a cache, from the database")
    why.add_argument("generation_id")
    why.set_defaults(command=_why)


def _why(arguments: Namespace) -> int:
    url = open_database(Settings.from_env(os.environ))
    row, origin = asyncio.run(read(url, lambda engine: _find(engine, arguments.generation_id)))
    if row is None:
        raise NotFound(f"there is no generation {arguments.generation_id[:64]!r} in the database (yet)")
    print(f"generation  {row.id}")
    print(f"asked       {row.created_at.isoformat(timespec='seconds')}, {row.component_type} by {row.pipeline}")
    print(f"outcome     {row.outcome} in {row.duration_s:.3f} s, cost {row.cost_usd} USD, saved {row.saved_usd} USD")
    print(f"answered    {_answered(row)}")
    for layer, reason in sorted(row.misses.items()):
        print(f"{layer:11} missed: {reason} ({_MEANINGS.get(reason, 'see the documentation of the layer')})")
    if row.degraded:
        print(f"degraded    {', '.join(row.degraded)}")
    if origin is not None:
        made = f"made {origin.created_at.isoformat(timespec='seconds')} for {origin.cost_usd} USD"
        print(f"origin      {origin.id}, {made} in {origin.duration_s:.3f} s")
    elif row.origin_id and row.origin_id != row.id:
        print(f"origin      {row.origin_id}, which is not in the database")
    return 0


def _answered(row: Any) -> str:
    if not row.source:
        return "by nobody"
    return "by the pipeline" if row.source == "L4" else f"by {row.source}"


async def _find(engine: Any, generation_id: str) -> tuple[Any, Any]:
    from forge_otel.database.models import GenerationRow
    from forge_otel.errors import needs

    with needs("sql"):
        from sqlalchemy.ext.asyncio import AsyncSession

    async with AsyncSession(engine) as session:
        row = await session.get(GenerationRow, generation_id)
        is_other = row is not None and row.origin_id and row.origin_id != row.id
        return row, (await session.get(GenerationRow, row.origin_id) if row is not None and is_other else None)
