"""Ranges and renderings of reports, without a database."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from forge_otel.database.analytics.queries import ApiCost, ErrorCount, Latency, Summary
from forge_otel.database.analytics.report import FORMATS, Report, parse_range, render
from forge_otel.errors import BadRequest

START = datetime(2026, 3, 1, tzinfo=UTC)
LATENCY = Latency(count=2, p50_s=1.25, p95_s=None, p99_s=None)


def found(**changes: object) -> Report:
    """A report of one day."""
    summary = Summary(
        generations=4,
        by_source={"L4": 3},
        errors=1,
        cost_usd=Decimal("1.26"),
        saved_usd=Decimal("1E-9"),
        full=LATENCY,
        cached=LATENCY,
    )
    usual = {"layers": [], "costs": [], "errors": [], "baseline": [], "series": [], "component_type": None}
    return Report(start=START, end=START + timedelta(days=1), summary=summary, **(usual | changes))  # type: ignore[arg-type]


def test_the_default_range_is_the_last_week() -> None:
    """Until now, and for all component types."""
    requested = parse_range(component_type="")

    assert requested.start is not None
    assert requested.end is not None
    assert requested.end - requested.start == timedelta(days=7)
    assert requested.component_type is None


def test_a_time_without_an_offset_is_utc() -> None:
    """Other offsets are converted."""
    requested = parse_range("2026-03-01", "2026-03-02T01:00+01:00", "card")

    assert (requested.start, requested.end) == (START, START + timedelta(days=1))
    assert requested.component_type == "card"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("soon", None), "from='soon' is not a time"),
        (("2020-01-01", "2026-01-01"), "at most 366 days"),
        (("0001-01-01", "0001-01-02"), "outside the calendar"),
        ((None, None, "x" * 257), "256 printable"),
    ],
)
def test_an_invalid_range_is_an_error(arguments: tuple[str | None, ...], message: str) -> None:
    """The message names the fault."""
    with pytest.raises(BadRequest, match=message):
        parse_range(*arguments)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_shows_the_figures(kind: str) -> None:
    """Money is shown in full, never in exponents."""
    text = render(found(costs=[ApiCost(api="openai", calls=3, unpriced=0, cost_usd=Decimal("1.26"))]), kind)

    assert "0.000000001" in text
    assert "openai" in text
    assert "1.26" in text


def test_names_are_escaped() -> None:
    """Markup in HTML, formulas in CSV, and control characters in the table."""
    report = found(errors=[ErrorCount(error_type="=<b>\x1b[31m", count=1)])

    assert "<b>" not in render(report, "html")
    assert "'=<b>" in render(report, "csv")
    assert "\x1b" not in render(report, "table")
    assert json.loads(render(report, "json"))["errors"] == [{"error_type": "=<b>\x1b[31m", "count": 1}]


def test_an_unknown_format_is_an_error() -> None:
    """The message lists the formats."""
    with pytest.raises(BadRequest, match="table, json, csv, html"):
        render(found(), "xml")
