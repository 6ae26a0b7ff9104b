"""Parts of a time range."""

import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest

from forge_otel.database.analytics.time_ranges import Range
from forge_otel.database.rollups import DAY, HOUR
from forge_otel.errors import BadRequest

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("largest", [HOUR, DAY])
@pytest.mark.parametrize(
    ("start_h", "end_h"), [(0, 24), (1, 2), (0.25, 0.5), (0.5, 1.5), (0.9, 50.1), (23, 49), (5, 5), (0.5, 1)]
)
def test_the_parts_cover_the_range_once(start_h: float, end_h: float, largest: int) -> None:
    """Together they are the range; each has the alignment of its span."""
    requested = Range(start=MIDNIGHT + timedelta(hours=start_h), end=MIDNIGHT + timedelta(hours=end_h))

    parts = [(hours, start, end) for hours, (start, end) in requested.spans(largest) if start and end and start < end]

    covered = sorted((start, end) for _, start, end in parts)
    assert sum((end - start for start, end in covered), timedelta()) == timedelta(hours=end_h - start_h)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(covered))
    for hours, start, end in parts:
        assert hours <= largest
        assert not hours or (start - MIDNIGHT) % timedelta(hours=hours) == timedelta()
        assert not hours or (end - MIDNIGHT) % timedelta(hours=hours) == timedelta()


def test_an_open_range_is_read_by_day() -> None:
    """Without bounds there is nothing to split."""
    assert list(Range().spans()) == [(DAY, (None, None))]


def test_bounds_are_converted_to_utc() -> None:
    """Any time zone is accepted, and a shifted range keeps its length and type."""
    start = MIDNIGHT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    requested = Range(start=start, component_type="card")

    assert requested.start == MIDNIGHT
    assert requested.start.utcoffset() == timedelta()
    assert requested.moved(timedelta(days=1)) == Range(start=MIDNIGHT + timedelta(days=1), component_type="card")


def test_an_invalid_range_is_an_error() -> None:
    """Naive bounds, and an end before the start."""
    with pytest.raises(BadRequest, match="timezone"):
        Range(start=datetime(2026, 3, 1))  # noqa: DTZ001
    with pytest.raises(BadRequest, match="before it starts"):
        Range(start=MIDNIGHT, end=MIDNIGHT - timedelta(seconds=1))
