"""Alembic's environment, and the revisions of our tables in `versions/`.

`forge_otel.database.migrate` runs them.
"""
