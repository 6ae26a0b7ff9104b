"""The tables. They have a registry and a MetaData of their own, so that a host's tables are never mixed with ours.

Money is a whole number of nano-dollars in the database, hence the column names, and a `Decimal` in Python: no float is
ever between the two. Times are aware and in UTC.
"""

from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from forge_otel.errors import needs

with needs("sql"):
    from sqlalchemy import (
        JSON,
        BigInteger,
        Column,
        Dialect,
        Index,
        Integer,
        MetaData,
        SmallInteger,
        String,
        Text,
    )
    from sqlalchemy.dialects.postgresql import JSONB
    from sqlalchemy.orm import registry
    from sqlalchemy.types import TypeDecorator
    from sqlmodel import Field, SQLModel
    from sqlmodel.sql.sqltypes import UTCDateTime

__all__ = ["Base", "CacheStatRow", "CostRow", "GenerationRow", "NanoUsd", "RollupRow"]

_NANO: Final = Decimal(10) ** 9
_JSON: Final = JSON().with_variant(JSONB(), "postgresql")


class NanoUsd(TypeDecorator[Decimal]):
    """US dollars, exact to a billionth, stored as a BIGINT; SQLite would keep a NUMERIC as a float."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        """Return nano-dollars, rounded half to even."""
        return None if value is None else int((value * _NANO).to_integral_value(ROUND_HALF_EVEN))

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Return dollars."""
        return None if value is None else Decimal(value) / _NANO


class Base(SQLModel, registry=registry(metadata=MetaData())):
    """What all tables derive from."""


class GenerationRow(Base, table=True):
    """One finished generation."""

    __tablename__ = "generations"
    __table_args__ = (
        Index("ix_generations_created_at", "created_at"),
        Index("ix_generations_component_type_created_at", "component_type", "created_at"),
        Index("ix_generations_component_id_created_at", "component_id", "created_at"),
    )

    id: str = Field(sa_column=Column(String(36), primary_key=True))
    created_at: datetime = Field(sa_column=Column(UTCDateTime(), nullable=False))
    duration_s: float
    outcome: str = Field(max_length=32)
    source: str = Field(max_length=32)
    """The cache layer that answered, L1 to L3; L4 for a full generation, collapsed, or empty where nobody did."""
    pipeline: str
    pipeline_version: str
    component_type: str = Field(max_length=256)
    component_id: str = Field(max_length=128)
    key: str = Field(max_length=64)
    component_name: str | None = None
    figma_key: str | None = None
    screenshot_hash: str | None = None
    content_hash: str | None = None
    pattern_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    tenant: str | None = None
    origin_id: str = Field(max_length=36)
    cost_usd: Decimal = Field(sa_column=Column("cost_nano_usd", NanoUsd(), nullable=False))
    saved_usd: Decimal = Field(sa_column=Column("saved_nano_usd", NanoUsd(), nullable=False))
    input_uncached_tokens: int = Field(sa_type=BigInteger)
    cache_read_tokens: int = Field(sa_type=BigInteger)
    cache_write_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    reasoning_tokens: int = Field(sa_type=BigInteger)
    trace_id: str = Field(max_length=32)
    langsmith_url: str | None = None
    error_type: str | None = None
    error_message: str | None = Field(default=None, sa_type=Text)
    quality_score: float | None = None
    misses: dict[str, str] = Field(sa_column=Column(_JSON, nullable=False))
    degraded: list[str] = Field(sa_column=Column(_JSON, nullable=False))
    steps: list[dict[str, Any]] = Field(sa_column=Column(_JSON, nullable=False))
    artifact_refs: dict[str, str] = Field(sa_column=Column(_JSON, nullable=False))
    similarity: float | None = None
    """Of the question that was answered before, where the semantic cache answered."""


class CostRow(Base, table=True):
    """What one paid call of a generation cost; the amount is null where no price is known, never 0 in its place.

    Written and deleted in one transaction with its generation. A foreign key would say so too, but checking it took
    PostgreSQL as long as storing the generation.
    """

    __tablename__ = "costs"

    generation_id: str = Field(sa_column=Column(String(36), primary_key=True))
    seq: int = Field(primary_key=True)
    api: str
    model: str
    agent: str
    input_uncached_tokens: int = Field(sa_type=BigInteger)
    cache_read_tokens: int = Field(sa_type=BigInteger)
    cache_write_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    reasoning_tokens: int = Field(sa_type=BigInteger)
    amount_usd: Decimal | None = Field(default=None, sa_column=Column("amount_nano_usd", NanoUsd(), nullable=True))


class CacheStatRow(Base, table=True):
    """How often a cache layer was asked and answered in one minute, and what that saved."""

    __tablename__ = "cache_stats"

    minute: datetime = Field(sa_column=Column(UTCDateTime(), primary_key=True))
    layer: str = Field(primary_key=True, max_length=32)
    component_type: str = Field(primary_key=True, max_length=256)
    requests: int = Field(sa_type=BigInteger)
    hits: int = Field(sa_type=BigInteger)
    saved_usd: Decimal = Field(sa_column=Column("saved_nano_usd", NanoUsd(), nullable=False))


class RollupRow(Base, table=True):
    """A sum over an hour or a day, for the analytics; see `forge_otel.database.facets` for what is counted."""

    __tablename__ = "rollups"
    # Read in ranges of its key, and so kept in that order.
    __table_args__ = {"sqlite_with_rowid": False}

    hours: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    """How long the span is: 1 or 24."""
    facet: str = Field(primary_key=True, max_length=16)
    component_type: str = Field(primary_key=True, max_length=256)
    """Empty: all of them."""
    start: datetime = Field(sa_column=Column(UTCDateTime(), primary_key=True))
    name: str = Field(primary_key=True, max_length=256)
    bucket: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    count: int = Field(sa_type=BigInteger)
    hits: int = Field(sa_type=BigInteger)
    cost_usd: Decimal = Field(sa_column=Column("cost_nano_usd", NanoUsd(), nullable=False))
    saved_usd: Decimal = Field(sa_column=Column("saved_nano_usd", NanoUsd(), nullable=False))
