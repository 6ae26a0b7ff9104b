"""Rollups by hour and day, filled from the stored generations; costs without a foreign key."""

import json
import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Copies of the definitions at this revision: a migration must not change with the code.
_SMALLEST_S = 1e-4
_LOG_FACTOR = math.log(1.05 / 0.95)
_LAST = 300
_FOREIGN_KEY = "costs_generation_id_fkey"
_TOKENS = ("input_uncached", "cache_read", "cache_write", "output", "reasoning")
_CACHED = {"L1", "L2", "L3", "collapsed"}

_KEYS = ("hours", "facet", "component_type", "start", "name", "bucket")

_TABLE = sa.table(
    "rollups",
    sa.column("hours", sa.SmallInteger),
    sa.column("facet", sa.String),
    sa.column("component_type", sa.String),
    sa.column("start", sa.DateTime(timezone=True)),
    sa.column("name", sa.String),
    sa.column("bucket", sa.Integer),
    *(sa.column(name, sa.BigInteger) for name in ("count", "hits", "cost_nano_usd", "saved_nano_usd")),
)
_GENERATIONS = sa.table(
    "generations",
    sa.column("id", sa.String),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("misses", sa.JSON),
    *(sa.column(name) for name in ("component_type", "source", "outcome", "duration_s", "error_type", "cost_nano_usd")),
    sa.column("saved_nano_usd"),
)
_COSTS = sa.table("costs", *(sa.column(name) for name in ("generation_id", "api", "amount_nano_usd")))

Sums = dict[tuple[Any, ...], list[int]]


def upgrade() -> None:
    """Create the table and fill it."""
    op.create_table(
        "rollups",
        sa.Column("hours", sa.SmallInteger(), autoincrement=False),
        sa.Column("facet", sa.String(16)),
        sa.Column("component_type", sa.String(256)),
        sa.Column("start", sa.DateTime(timezone=True)),
        sa.Column("name", sa.String(256)),
        sa.Column("bucket", sa.Integer(), autoincrement=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("count", "hits", "cost_nano_usd", "saved_nano_usd")
        ),
        sa.PrimaryKeyConstraint(*_KEYS),
        sqlite_with_rowid=False,
    )
    _change_costs(op.get_bind())
    _fill(op.get_bind())


def downgrade() -> None:
    """Drop the table and restore the foreign key."""
    op.drop_table("rollups")
    # Costs without their generation would violate the restored key.
    op.execute("DELETE FROM costs WHERE generation_id NOT IN (SELECT id FROM generations)")
    _change_costs(op.get_bind(), sa.ForeignKey("generations.id", ondelete="CASCADE", name=_FOREIGN_KEY))


def _change_costs(connection: sa.Connection, *keys: sa.ForeignKey) -> None:
    """Replace the foreign keys of `costs` by `keys`: one or none."""
    if connection.dialect.name == "postgresql":
        if keys:
            op.create_foreign_key(_FOREIGN_KEY, "costs", "generations", ["generation_id"], ["id"], ondelete="CASCADE")
        else:
            op.drop_constraint(_FOREIGN_KEY, "costs", type_="foreignkey")
        return
    # SQLite cannot drop or add a constraint of an existing table (sqlite.org/lang_altertable.html).
    op.rename_table("costs", "costs_before")
    op.create_table(
        "costs",
        sa.Column("generation_id", sa.String(36), *keys),
        sa.Column("seq", sa.Integer()),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("api", "model", "agent")),
        *(sa.Column(f"{part}_tokens", sa.BigInteger(), nullable=False) for part in _TOKENS),
        sa.Column("amount_nano_usd", sa.BigInteger()),
        sa.PrimaryKeyConstraint("generation_id", "seq"),
    )
    op.execute("INSERT INTO costs SELECT * FROM costs_before")
    op.drop_table("costs_before")


def _fill(connection: sa.Connection) -> None:
    # An hour at a time, so that memory use does not grow with the table.
    days: Sums = defaultdict(lambda: [0, 0, 0, 0])
    start = _next(connection, None)
    while start is not None:
        hours = _sums(connection, start)
        for (facet, *rest), values in hours.items():
            days[facet, *rest] = [one + other for one, other in zip(days[facet, *rest], values, strict=True)]
        _store(connection, 1, start, hours)
        following = _next(connection, start + timedelta(hours=1))
        if following is None or following.date() != start.date():
            _store(connection, 24, start.replace(hour=0), days)
            days.clear()
        start = following


def _next(connection: sa.Connection, since: datetime | None) -> datetime | None:
    """Return the first hour since `since` in which a generation began."""
    query = sa.select(sa.func.min(_GENERATIONS.c.created_at))
    if since is not None:
        query = query.where(_GENERATIONS.c.created_at >= _bound(connection, since))
    found: datetime | None = connection.execute(query).scalar_one()
    if found is None:
        return None
    found = found.replace(tzinfo=UTC) if found.utcoffset() is None else found.astimezone(UTC)
    return found.replace(minute=0, second=0, microsecond=0)


def _sums(connection: sa.Connection, start: datetime) -> Sums:
    bounds = [_bound(connection, moment) for moment in (start, start + timedelta(hours=1))]
    within = (_GENERATIONS.c.created_at >= bounds[0]) & (_GENERATIONS.c.created_at < bounds[1])
    sums: Sums = defaultdict(lambda: [0, 0, 0, 0])

    def add(facet: str, kind: str, *rest: Any, hits: int = 0, cost: int = 0, saved: int = 0) -> None:
        for key in ((facet, kind or "unknown", *rest), (facet, "", *rest)):
            sums[key] = [one + other for one, other in zip(sums[key], (1, hits, cost, saved), strict=True)]

    for row in connection.execute(sa.select(_GENERATIONS).where(within)):
        kind, is_ok = row.component_type, row.outcome == "ok"
        add("answers", kind, row.source, int(is_ok), cost=row.cost_nano_usd, saved=row.saved_nano_usd)
        if is_ok:
            add("latency", kind, row.source, _bucket(row.duration_s))
        else:
            add("errors", kind, (row.error_type or row.outcome)[:256], 0)
        misses = row.misses if isinstance(row.misses, dict) else json.loads(row.misses)
        for layer in dict.fromkeys([*misses, *({row.source} & _CACHED)]):
            is_hit = layer == row.source
            add("layers", kind, layer[:256], 0, hits=int(is_hit), saved=row.saved_nano_usd if is_hit else 0)
    joined = _COSTS.join(_GENERATIONS, _COSTS.c.generation_id == _GENERATIONS.c.id)
    costs = sa.select(_GENERATIONS.c.component_type, _COSTS.c.api, _COSTS.c.amount_nano_usd).select_from(joined)
    for kind, api, amount in connection.execute(costs.where(within)):
        add("costs", kind, api[:256], int(amount is None), cost=amount or 0)
    return sums


def _store(connection: sa.Connection, hours: int, start: datetime, sums: Sums) -> None:
    rows = [
        dict(zip(_TABLE.c.keys(), (hours, facet, kind, _bound(connection, start), *key, *values), strict=True))
        for (facet, kind, *key), values in sums.items()
    ]
    if rows:
        connection.execute(sa.insert(_TABLE), rows)


def _bound(connection: sa.Connection, moment: datetime) -> datetime:
    # SQLite stores times without their offset, which is UTC.
    return moment.replace(tzinfo=None) if connection.dialect.name == "sqlite" else moment


def _bucket(duration_s: float) -> int:
    if not duration_s > _SMALLEST_S:
        return 0
    return _LAST if math.isinf(duration_s) else min(_LAST, math.ceil(math.log(duration_s / _SMALLEST_S) / _LOG_FACTOR))
