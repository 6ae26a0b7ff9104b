"""Cosine similarity of the cached request that the semantic cache answered with."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    # A nullable column without a default rewrites no row.
    op.add_column("generations", sa.Column("similarity", sa.Float()))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("generations", "similarity")
