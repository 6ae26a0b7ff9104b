"""How like the question was to the one whose answer the semantic cache gave."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which no row has to be written anew for."""
    op.add_column("generations", sa.Column("similarity", sa.Float()))


def downgrade() -> None:
    """Drop it, and what it held."""
    op.drop_column("generations", "similarity")
