"""Pauses grow up to a limit, and `Retry-After` is read within bounds."""

import pytest

from forge_otel._internal.backoff import MAX_RETRY_AFTER_S, Backoff, parse_retry_after


def test_pauses_double_up_to_the_limit() -> None:
    """Without luck: the random part is 1."""
    backoff = Backoff(first_s=1, longest_s=5, rng=lambda: 1.0)
    assert [backoff.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_half_of_a_pause_is_random() -> None:
    """The shortest pause is 50 % of the limit."""
    assert Backoff(first_s=1, longest_s=5, rng=lambda: 0.0).next_s() == 0.5


def test_reset_begins_again() -> None:
    """After a success the next failure pauses shortly."""
    backoff = Backoff(first_s=1, longest_s=60, rng=lambda: 1.0)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("0", 0),
        ("-5", 0),
        ("1.5", 1.5),
        ("1e9", MAX_RETRY_AFTER_S),
        ("inf", MAX_RETRY_AFTER_S),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds, dates, garbage; the clock stands at 60 s."""
    assert parse_retry_after(value, wall_s=lambda: 60.0) == seconds
