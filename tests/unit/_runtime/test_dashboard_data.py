"""Figures of the dashboard, and reports."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from forge_otel._runtime.dashboard_data import report, summary
from forge_otel.errors import BadRequest, NotFound, ServiceUnavailable
from forge_otel.outbox.recent import RecentRecords
from forge_otel.sinks.sql import SqlSink
from forge_otel.telemetry.unrecorded import UnrecordedActivity
from forge_otel.types import Record


def _record(number: int, **changes: Any) -> Record:
    fields = {
        "id": f"{number:032}",
        "created_at": datetime.now(UTC),
        "duration_s": float(number),
        "outcome": "ok",
        "pipeline": "p",
        "pipeline_version": "1",
        "component_type": "button",
        "component_id": "c",
        "key": "k",
        "source": "L4",
    }
    return Record(**fields | changes)


async def _recent(*records: Record) -> RecentRecords:
    recent = RecentRecords()
    await recent.deliver(records)
    return recent


async def test_hit_rate_latencies_and_costs_are_of_successful_generations() -> None:
    """Failures are counted as errors; their costs are spent all the same."""
    recent = await _recent(
        *(_record(number, cost_usd=Decimal("0.10")) for number in range(1, 4)),
        _record(4, source="L1", saved_usd=Decimal("0.10")),
        _record(5, outcome="error", source="", cost_usd=Decimal("0.05")),
    )
    figures = await summary(None, recent)
    assert (figures["generations"], figures["errors"], figures["hit_rate"]) == (5, 1, 0.25)
    assert (figures["cost_usd"], figures["saved_usd"]) == ("0.35", "0.10")
    assert (figures["full"]["count"], figures["full"]["p50_s"], figures["full"]["p99_s"]) == (3, 2.0, 3.0)
    assert figures["cached"]["count"] == 1


async def test_costs_and_failures_without_a_record_are_in_the_totals(tmp_path: Path) -> None:
    """In both scopes; the part without a record is also shown by itself."""
    unrecorded = UnrecordedActivity()
    unrecorded.add_call(Decimal("0.014"))
    unrecorded.add_call(None)
    unrecorded.add_failed_request()
    recent = await _recent(_record(1, cost_usd=Decimal("0.10")), _record(2, outcome="error", source=""))
    async with SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db") as sink:
        await sink.deliver(recent.records())
        for figures in (await summary(None, recent, unrecorded), await summary(sink, recent, unrecorded)):
            assert (Decimal(figures["cost_usd"]), figures["errors"], figures["generations"]) == (Decimal("0.114"), 2, 2)
            assert figures["unrecorded"] == {
                "model_calls": 2,
                "unpriced": 1,
                "cost_usd": "0.014",
                "failed_requests": 1,
            }


async def test_no_records_have_no_hit_rate() -> None:
    """It is unknown, not 0."""
    figures = await summary(None, RecentRecords())
    assert (figures["hit_rate"], figures["full"]["p50_s"]) == (None, None)


async def test_a_database_that_is_not_connected_falls_back_to_this_process(tmp_path: Path) -> None:
    """The dashboard stays available."""
    sink = SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db")
    assert (await summary(sink, RecentRecords()))["scope"] == "process"


async def test_a_connected_database_is_queried(tmp_path: Path) -> None:
    """Records of other processes are included, and reports come in every format."""
    async with SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db") as sink:
        await sink.deliver([_record(1)])
        figures = await summary(sink, RecentRecords())
        assert (figures["scope"], figures["generations"]) == ("database", 1)
        for format_, media_type in (("json", "application/json"), ("csv", "text/csv"), ("html", "text/html")):
            text, found = await report(sink, {"format": format_})
            assert (found, bool(text)) == (media_type, True)


@pytest.mark.parametrize("requested", [{"format": "pdf"}, {"errors": "1000"}, {"errors": "x"}, {"since": "today"}])
async def test_an_unknown_option_is_a_bad_request(requested: dict[str, str]) -> None:
    """Options are checked before the database."""
    with pytest.raises(BadRequest):
        await report(None, requested)


async def test_a_report_without_a_database_is_not_found(tmp_path: Path) -> None:
    """One that is configured but down is unavailable."""
    with pytest.raises(NotFound):
        await report(None, {})
    with pytest.raises(ServiceUnavailable):
        await report(SqlSink(f"sqlite+aiosqlite:///{tmp_path}/forge.db"), {})
