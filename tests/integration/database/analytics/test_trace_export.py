"""Export of generations, page by page."""

from datetime import UTC, datetime, timedelta

from tests.unit.sinks.builders import record

from forge_otel.database.analytics.trace_export import export_traces
from forge_otel.sinks.sql import SqlSink

START = datetime(2026, 3, 1, tzinfo=UTC)


async def test_pages_neither_skip_nor_repeat_a_generation(sink: SqlSink) -> None:
    """More than a page begins in the same microsecond; the order is by time and id."""
    items = [record(created_at=START + timedelta(seconds=number // 520)) for number in range(1_030)]
    await sink.deliver(items[:600])
    await sink.deliver(items[600:])

    found = [line["id"] async for line in export_traces(sink.engine)]

    assert found == [item.id for item in sorted(items, key=lambda item: (item.created_at, item.id))]


async def test_a_range_and_a_type_are_selected_with_their_costs(sink: SqlSink) -> None:
    """The start is inclusive, the end exclusive; each line has the costs of its calls."""
    items = [record(created_at=START + timedelta(hours=hour)) for hour in range(3)]
    await sink.deliver([*items, record(created_at=START + timedelta(hours=1), component_type="card")])

    hours = [START + timedelta(hours=hour) for hour in (1, 2)]
    [line] = [line async for line in export_traces(sink.engine, *hours, "button")]

    assert line["id"] == items[1].id
    assert [(cost["seq"], cost["api"]) for cost in line["costs"]] == [(0, "openai"), (1, "figma")]
