"""`forge-otel why`: shows which layer answered a generation, and why each cache before it missed."""

import asyncio
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from forge_otel.cli._database import existing_database_url, read
from forge_otel.cli._miss_reasons import describe
from forge_otel.errors import NotFound, needs

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from forge_otel.database.models import GenerationRow

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command."""
    why = commands.add_parser("why", help="show why a generation was or was not answered by a cache")
    why.add_argument("generation_id")
    why.set_defaults(command=_why)


def _why(arguments: Namespace) -> int:
    row, origin = asyncio.run(
        read(existing_database_url(), lambda engine: _find(engine, arguments.generation_id)),
    )
    if row is None:
        raise NotFound(f"generation {arguments.generation_id[:64]!r} is not in the database (yet)")
    print(f"generation  {row.id}")
    print(f"started     {row.created_at.isoformat(timespec='seconds')}, {row.component_type} by {row.pipeline}")
    print(f"outcome     {row.outcome} in {row.duration_s:.3f} s, cost {row.cost_usd} USD, saved {row.saved_usd} USD")
    print(f"answered    {_answered(row)}")
    for layer, reason in sorted(row.misses.items()):
        print(f"{layer:11} miss: {describe(reason)}")
    if row.degraded:
        print(f"degraded    {', '.join(row.degraded)}")
    if origin is not None:
        made = f"generated {origin.created_at.isoformat(timespec='seconds')} for {origin.cost_usd} USD"
        print(f"origin      {origin.id}, {made} in {origin.duration_s:.3f} s")
    elif row.origin_id and row.origin_id != row.id:
        print(f"origin      {row.origin_id}, which is not in the database")
    return 0


def _answered(row: "GenerationRow") -> str:
    if not row.source:
        return f"no, the outcome is {row.outcome}"
    return "by the pipeline" if row.source == "L4" else f"by {row.source}"


async def _find(engine: "AsyncEngine", generation_id: str) -> "tuple[GenerationRow | None, GenerationRow | None]":
    """Return the generation, and the one whose cached result it returned."""
    from forge_otel.database.models import GenerationRow

    with needs("sql"):
        from sqlalchemy.ext.asyncio import AsyncSession

    async with AsyncSession(engine) as session:
        row = await session.get(GenerationRow, generation_id)
        if row is None or row.origin_id in {"", row.id}:
            return row, None
        return row, await session.get(GenerationRow, row.origin_id)
