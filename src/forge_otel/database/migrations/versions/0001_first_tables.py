"""The first tables: generations, costs, cache_stats."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and their indexes."""
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.create_table(
        "generations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("pipeline", sa.String(), nullable=False),
        sa.Column("pipeline_version", sa.String(), nullable=False),
        sa.Column("component_type", sa.String(256), nullable=False),
        sa.Column("component_id", sa.String(128), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("component_name", sa.String()),
        sa.Column("figma_key", sa.String()),
        sa.Column("screenshot_hash", sa.String()),
        sa.Column("content_hash", sa.String()),
        sa.Column("pattern_id", sa.String()),
        sa.Column("user_id", sa.String()),
        sa.Column("session_id", sa.String()),
        sa.Column("tenant", sa.String()),
        sa.Column("origin_id", sa.String(36), nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("saved_nano_usd", sa.BigInteger(), nullable=False),
        *_tokens(),
        sa.Column("trace_id", sa.String(32), nullable=False),
        sa.Column("langsmith_url", sa.String()),
        sa.Column("error_type", sa.String()),
        sa.Column("error_message", sa.Text()),
        sa.Column("quality_score", sa.Float()),
        sa.Column("misses", json, nullable=False),
        sa.Column("degraded", json, nullable=False),
        sa.Column("steps", json, nullable=False),
        sa.Column("artifact_refs", json, nullable=False),
    )
    for columns in (["created_at"], ["component_type", "created_at"], ["component_id", "created_at"]):
        op.create_index(f"ix_generations_{'_'.join(columns)}", "generations", columns)
    op.create_table(
        "costs",
        sa.Column("generation_id", sa.String(36), sa.ForeignKey("generations.id", ondelete="CASCADE")),
        sa.Column("seq", sa.Integer()),
        sa.Column("api", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        *_tokens(),
        sa.Column("amount_nano_usd", sa.BigInteger()),
        sa.PrimaryKeyConstraint("generation_id", "seq"),
    )
    op.create_table(
        "cache_stats",
        sa.Column("minute", sa.DateTime(timezone=True)),
        sa.Column("layer", sa.String(32)),
        sa.Column("component_type", sa.String(256)),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("hits", sa.BigInteger(), nullable=False),
        sa.Column("saved_nano_usd", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "layer", "component_type"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("cache_stats", "costs", "generations"):
        op.drop_table(table)


def _tokens() -> list[sa.Column[int]]:
    parts = ("input_uncached", "cache_read", "cache_write", "output", "reasoning")
    return [sa.Column(f"{part}_tokens", sa.BigInteger(), nullable=False) for part in parts]
