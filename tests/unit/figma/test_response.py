"""The cached state of a request tells whether its entry is fresh, and how old it is."""

from typing import Any

import pytest

from forge_otel.figma.request import FigmaRequest
from forge_otel.figma.response import CachedState, FigmaOptions

NOW_MS = 1_800_000_000_000
FILE = FigmaRequest(endpoint="file", file_key="k", scope="s")
STYLES = FigmaRequest(endpoint="styles", file_key="k", scope="s")
OPTIONS = FigmaOptions(fresh_s=300.0)


def state_of(*, entry_age_s: float, version: str | None, check: tuple[float, str, str] | None) -> CachedState:
    """Return a state with an entry, and a version check of an age, a version and an epoch."""
    entry: dict[str, Any] = {"at": NOW_MS - entry_age_s * 1000, "version": version, "touched": "t"}
    version_check = None
    if check is not None:
        age_s, checked, epoch = check
        version_check = {"at": NOW_MS - age_s * 1000, "version": checked, "touched": epoch}
    return CachedState(
        entry=entry,
        version_check=version_check,
        drop_epoch="d",
        touch_epoch="t",
        not_found=None,
        pauses_s={},
        reason="version",
        now_ms=NOW_MS,
    )


@pytest.mark.parametrize(
    ("check", "is_fresh"),
    [
        ((10, "1", "t"), True),
        ((-4, "1", "t"), True),
        ((-6, "1", "t"), False),
        ((301, "1", "t"), False),
        ((10, "2", "t"), False),
        ((10, "1", "earlier"), False),
        (None, False),
    ],
    ids=["recent", "tolerated skew", "future", "old", "new version", "touched", "unchecked"],
)
def test_an_entry_is_fresh_after_a_recent_check_of_its_version(
    check: tuple[float, str, str] | None, is_fresh: bool
) -> None:
    """The age of the entry itself does not matter."""
    assert state_of(entry_age_s=100_000, version="1", check=check).is_fresh(FILE, OPTIONS) == is_fresh


@pytest.mark.parametrize(("age_s", "is_fresh"), [(299, True), (300, False)])
def test_an_entry_without_a_version_is_fresh_by_its_age(age_s: float, is_fresh: bool) -> None:
    """Its version could not be read."""
    assert state_of(entry_age_s=age_s, version=None, check=None).is_fresh(STYLES, OPTIONS) == is_fresh


def test_the_age_counts_from_the_last_check_of_the_same_version() -> None:
    """A check with another version does not make the entry younger."""
    assert state_of(entry_age_s=500, version="1", check=(20, "1", "t")).age_s() == 20.0
    assert state_of(entry_age_s=500, version="1", check=(20, "2", "t")).age_s() == 500.0
