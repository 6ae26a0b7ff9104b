"""Arguments of faults."""

from collections.abc import Callable

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.testing.faults.http import HttpAnswer
from forge_otel.testing.faults.kinds import CutOff, Fault, Slow, Trickle


@pytest.mark.parametrize(
    ("create", "argument"),
    [
        (lambda: Slow(answer_s=-1), "answer_s"),
        (lambda: Slow(request_s=float("nan")), "request_s"),
        (lambda: Trickle(chunk_bytes=0), "chunk_bytes"),
        (lambda: Trickle(interval_s=0), "interval_s"),
        (lambda: CutOff(after_bytes=-1), "after_bytes"),
        (lambda: HttpAnswer(status=100), "status"),
    ],
)
def test_invalid_arguments_are_rejected(create: Callable[[], Fault], argument: str) -> None:
    """The message names the argument."""
    with pytest.raises(ConfigurationError, match=argument):
        create()
