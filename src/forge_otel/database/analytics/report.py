"""Report over a range, rendered as a table for a terminal, JSON, CSV or HTML."""

import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import orjson

from forge_otel.database.analytics import queries as analytics
from forge_otel.database.analytics.queries import (
    ApiCost,
    Baseline,
    ErrorCount,
    Latency,
    LayerFigures,
    Range,
    SeriesPoint,
    Summary,
)
from forge_otel.database.rollups import DAY, HOUR
from forge_otel.errors import BadRequest, needs

with needs("sql"):
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["FORMATS", "MAX_ERRORS", "Report", "parse_range", "render", "report"]

MAX_RANGE: Final = timedelta(days=366)
MAX_ERRORS: Final = 100
USUAL_RANGE: Final = timedelta(days=7)
BY_HOUR: Final = timedelta(days=2)
_MAX_TYPE_CHARS: Final = 256

Section = tuple[str, Sequence[str], Sequence[Sequence[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Results of all analytics queries for one range.

    Args:
        baseline: empty where the range is too long for a comparison.
    """

    start: datetime
    end: datetime
    component_type: str | None
    summary: Summary
    layers: Sequence[LayerFigures]
    costs: Sequence[ApiCost]
    errors: Sequence[ErrorCount]
    baseline: Sequence[Baseline]
    series: Sequence[SeriesPoint]


def parse_range(start: str | None = None, end: str | None = None, component_type: str | None = None) -> Range:
    """Parse the range of a report.

    Args:
        start: ISO 8601, such as `2026-03-01` or `2026-03-01T12:30:00+01:00`, in UTC without an offset; seven days
            before the end by default.
        end: exclusive; now by default.
        component_type: only this type; None or empty for all.

    Raises:
        BadRequest: an argument is invalid, or the range is too long.
    """
    last = _moment("to", end) if end else datetime.now(UTC)
    try:
        first = _moment("from", start) if start else last - USUAL_RANGE
        requested = Range(start=first, end=last, component_type=component_type or None)
        # Raises where the comparison with the week before would leave the calendar.
        requested.moved(-analytics.WEEK)
    except OverflowError as exc:
        raise BadRequest("the range is outside the calendar") from exc
    if last - first > MAX_RANGE:
        raise BadRequest(f"a report covers at most {MAX_RANGE.days} days")
    if component_type and (len(component_type) > _MAX_TYPE_CHARS or not component_type.isprintable()):
        raise BadRequest(f"a component type has at most {_MAX_TYPE_CHARS} printable characters")
    return requested


async def report(engine: AsyncEngine, requested: Range, *, errors: int = 10) -> Report:
    """Run all analytics queries for a range.

    Args:
        engine: of our database.
        requested: the range, as `parse_range` returns it.
        errors: maximum number of error types.

    Raises:
        BadRequest: the range is open, or `errors` is not between 1 and `MAX_ERRORS`.
    """
    if requested.start is None or requested.end is None:
        raise BadRequest("a report needs a start and an end")
    if not 1 <= errors <= MAX_ERRORS:
        raise BadRequest(f"a report shows 1 to {MAX_ERRORS} types of error")
    length = requested.end - requested.start
    return Report(
        start=requested.start,
        end=requested.end,
        component_type=requested.component_type,
        summary=await analytics.summary(engine, requested),
        layers=await analytics.layers(engine, requested),
        costs=await analytics.costs(engine, requested),
        errors=await analytics.errors(engine, requested, limit=errors),
        baseline=await analytics.baseline(engine, requested) if length <= analytics.MAX_BASELINE else [],
        series=await analytics.series(engine, requested, step_hours=HOUR if length <= BY_HOUR else DAY),
    )


def render(found: Report, kind: str) -> str:
    """Render the report in one of `FORMATS`.

    Raises:
        BadRequest: the format is unknown.
    """
    try:
        renderer = FORMATS[kind]
    except KeyError as exc:
        raise BadRequest(f"the format of a report is one of {', '.join(FORMATS)}, not {kind[:16]!r}") from exc
    return renderer(found)


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise BadRequest(f"{name}={text[:40]!r} is not a time; write 2026-03-01 or 2026-03-01T12:30:00Z") from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _sections(found: Report) -> list[Section]:
    total = found.summary
    figures = [
        ("generations", total.generations),
        ("success rate", _percent(total.success_rate)),
        ("cost USD", total.cost_usd),
        ("saved USD", total.saved_usd),
        *((f"answered by {source}", count) for source, count in sorted(total.by_source.items())),
    ]
    latency = [(name, *_quantiles(one)) for name, one in (("full", total.full), ("cached", total.cached))]
    return [
        ("Summary", ("figure", "value"), figures),
        ("Latency", ("kind", "count", "p50 s", "p95 s", "p99 s"), latency),
        (
            "Cache layers",
            ("layer", "lookups", "hits", "hit rate", "saved USD"),
            [(one.layer, one.requests, one.hits, _percent(one.hit_rate), one.saved_usd) for one in found.layers],
        ),
        (
            "Costs",
            ("API", "calls", "without a price", "cost USD"),
            [(one.api, one.calls, one.unpriced, one.cost_usd) for one in found.costs],
        ),
        ("Errors", ("type", "count"), [(one.error_type, one.count) for one in found.errors]),
        (
            "Full generations against the week before",
            ("component type", "count", "p50 s", "p95 s", "p99 s", "success rate", "p95 a week before", "change"),
            [
                (
                    one.component_type,
                    *_quantiles(one.full),
                    _percent(one.success_rate),
                    _rounded(one.week_before.p95_s),
                    "" if one.degradation is None else f"{one.degradation:+.1%}",
                )
                for one in found.baseline
            ],
        ),
        (
            "Over time",
            ("from", "generations", "errors", "hits", "cost USD", "saved USD", "p95 s"),
            [
                (
                    one.start.isoformat(),
                    *(one.generations, one.errors, one.hits, one.cost_usd, one.saved_usd),
                    _rounded(one.latency.p95_s),
                )
                for one in found.series
            ],
        ),
    ]


def _title(found: Report) -> str:
    kind = f", {found.component_type} only" if found.component_type else ""
    return f"Generations from {found.start.isoformat()} to {found.end.isoformat()}{kind}"


def _table(found: Report) -> str:
    lines = [_title(found)]
    for title, columns, rows in _sections(found):
        cells = [columns, *([_printable(cell) for cell in row] for row in rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
        lines += ["", title, *("  ".join(_padded(row, widths)).rstrip() for row in cells)]
    return "\n".join(lines) + "\n"


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = (
        cell.ljust(width) if not column else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return [first, *others]


def _json(found: Report) -> str:
    return orjson.dumps(found, default=_plain, option=orjson.OPT_INDENT_2).decode() + "\n"


def _csv(found: Report) -> str:
    """One line per figure, so that all lines have the same columns."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("section", "name", "figure", "value"))
    for title, columns, rows in _sections(found):
        for name, *values in rows:
            for column, value in zip(columns[1:], values, strict=True):
                writer.writerow((title, _escaped_formula(_printable(name)), column, _printable(value)))
    return out.getvalue()


def _html(found: Report) -> str:
    parts = [_HEAD, f"<title>{html.escape(_title(found))}</title><h1>{html.escape(_title(found))}</h1>"]
    for title, columns, rows in _sections(found):
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(_printable(cell))}</td>' for cell in row)}</tr>" for row in rows
        )
        parts.append(f"<h2>{html.escape(title)}</h2><table><tr>{head}</tr>{body}</table>")
    return "\n".join(parts) + "\n"


def _escaped_formula(text: str) -> str:
    """Escape a name that a spreadsheet would interpret as a formula."""
    # OWASP, "CSV Injection": a spreadsheet can send data away by a formula.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _quantiles(one: Latency) -> tuple[Any, ...]:
    return one.count, _rounded(one.p50_s), _rounded(one.p95_s), _rounded(one.p99_s)


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _printable(value: Any) -> str:
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    # Names come from requests, and a terminal would execute the control characters in them.
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


_HEAD: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><style>body{font:15px/1.5 system-ui;margin:2rem}'
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}</style>"
)

FORMATS: Final[Mapping[str, Callable[[Report], str]]] = {"table": _table, "json": _json, "csv": _csv, "html": _html}
"""Format name to its renderer."""
