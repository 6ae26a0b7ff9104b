"""Analytics: queries over the rollups, reports, and the export of generations.

Writing is in `forge_otel.database.writing`, and what a rollup holds in `forge_otel.database.rollups`.
"""
