"""The faults that a `forge_otel.testing.faults.proxy.FaultProxy` can inject."""

import math
from dataclasses import dataclass

from forge_otel.errors import ConfigurationError
from forge_otel.testing.faults.http import HttpAnswer

__all__ = ["CutOff", "Fault", "Garbage", "PassThrough", "Refuse", "Reset", "Silent", "Slow", "Trickle"]


@dataclass(frozen=True, slots=True)
class PassThrough:
    """No fault."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens: connecting fails with ECONNREFUSED; open connections are reset, as when a process dies."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Open connections are reset (RST) at once, new ones as soon as the client sends something."""


@dataclass(frozen=True, slots=True)
class Silent:
    """A black hole: connections are accepted and read, and nothing ever comes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """Everything comes late; bytes that follow each other are late together, as on a long line.

    Args:
        request_s: seconds added on the way to the server.
        answer_s: seconds added on the way back.
    """

    request_s: float = 0.0
    answer_s: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.request_s < math.inf and 0 <= self.answer_s < math.inf):
            raise ConfigurationError(["request_s and answer_s of Slow are seconds and may not be negative"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle:
    """Answers come in drops, so that a limit on the time between two reads never strikes.

    Args:
        chunk_bytes: the size of a drop.
        interval_s: seconds between two.
    """

    chunk_bytes: int = 1
    interval_s: float = 0.1

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1 or not 0 < self.interval_s < math.inf:
            raise ConfigurationError(["chunk_bytes of Trickle must be at least 1, interval_s finite and above 0"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """The server is asked, and random bytes come back in place of what it answers; the same ones for the same seed.

    Args:
        seed: every connection begins with it.
    """

    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """Connections are closed in the middle of an answer.

    Args:
        after_bytes: how much of what is answered from now on each connection lets through.
    """

    after_bytes: int = 0

    def __post_init__(self) -> None:
        if self.after_bytes < 0:
            raise ConfigurationError(["after_bytes of CutOff may not be negative"])


Fault = PassThrough | Refuse | Reset | Silent | Slow | Trickle | Garbage | CutOff | HttpAnswer
"""What a proxy can be told to do."""
