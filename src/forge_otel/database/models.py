"""The tables as SQLModel classes.

Money is stored as whole nano-dollars, hence the column names, and is a `Decimal` in Python; no float is involved. Times
are aware and in UTC.
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
    """US dollars with nine decimal places, stored as a BIGINT."""

    # SQLite would store a NUMERIC as a float.
    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        """Convert dollars to nano-dollars, rounded half to even."""
        return None if value is None else int((value * _NANO).to_integral_value(ROUND_HALF_EVEN))

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Convert nano-dollars to dollars."""
        return None if value is None else Decimal(value) / _NANO


# A registry of its own: SQLModel's MetaData is shared by all models of the process, and the migrations of a host
# application would create our tables.
class Base(SQLModel, registry=registry(metadata=MetaData())):
    """Base class of all tables."""


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
    """Cache layer that answered (L1 to L3), L4 for a full generation, `collapsed`, or empty for a failed generation."""
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
    """Cosine similarity of the cached request, where the semantic cache answered."""


class CostRow(Base, table=True):
    """Cost of one paid call of a generation; the amount is null where no price is known, never 0."""

    # No foreign key: checking it took PostgreSQL as long as storing the generation. Costs are written and deleted in
    # the same transaction as their generation.
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
    """Lookups, hits and savings of one cache layer in one minute, by component type."""

    __tablename__ = "cache_stats"

    minute: datetime = Field(sa_column=Column(UTCDateTime(), primary_key=True))
    layer: str = Field(primary_key=True, max_length=32)
    component_type: str = Field(primary_key=True, max_length=256)
    requests: int = Field(sa_type=BigInteger)
    hits: int = Field(sa_type=BigInteger)
    saved_usd: Decimal = Field(sa_column=Column("saved_nano_usd", NanoUsd(), nullable=False))


class RollupRow(Base, table=True):
    """Sum over an hour or a day, for the analytics; `forge_otel.database.rollups` defines the facets."""

    __tablename__ = "rollups"
    # Read in ranges of its key, and therefore stored in that order.
    __table_args__ = {"sqlite_with_rowid": False}

    hours: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    """Length of the span: 1 or 24."""
    facet: str = Field(primary_key=True, max_length=16)
    component_type: str = Field(primary_key=True, max_length=256)
    """Empty for the sum over all component types."""
    start: datetime = Field(sa_column=Column(UTCDateTime(), primary_key=True))
    name: str = Field(primary_key=True, max_length=256)
    bucket: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    count: int = Field(sa_type=BigInteger)
    hits: int = Field(sa_type=BigInteger)
    cost_usd: Decimal = Field(sa_column=Column("cost_nano_usd", NanoUsd(), nullable=False))
    saved_usd: Decimal = Field(sa_column=Column("saved_nano_usd", NanoUsd(), nullable=False))
