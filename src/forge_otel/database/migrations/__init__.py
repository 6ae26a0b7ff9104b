"""Alembic's environment and the revisions of our tables."""
