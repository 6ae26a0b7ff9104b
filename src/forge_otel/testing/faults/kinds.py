"""The faults that `forge_otel.testing.faults.proxy.FaultProxy` injects."""

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
    """The port is closed: connecting fails with ECONNREFUSED, and open connections are reset."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Open connections are reset (RST) at once, new ones when the client sends data."""


@dataclass(frozen=True, slots=True)
class Silent:
    """Connections are accepted and read, and no data is ever returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """Constant latency: all data is delayed, without a limit of the throughput.

    Args:
        request_s: seconds added on the way to the server.
        answer_s: seconds added on the way back.
    """

    request_s: float = 0.0
    answer_s: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.request_s < math.inf and 0 <= self.answer_s < math.inf):
            raise ConfigurationError(["request_s and answer_s of Slow must be finite and at least 0"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle:
    """Responses arrive in small chunks, so that a read timeout never expires.

    Args:
        chunk_bytes: size of a chunk.
        interval_s: seconds between two chunks.
    """

    chunk_bytes: int = 1
    interval_s: float = 0.1

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1 or not 0 < self.interval_s < math.inf:
            raise ConfigurationError(["chunk_bytes of Trickle must be at least 1, interval_s finite and above 0"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """The server receives requests, and its responses are replaced by random bytes.

    Args:
        seed: seed of the random bytes of each connection.
    """

    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """Connections are closed in the middle of a response.

    Args:
        after_bytes: bytes of responses that each connection still passes on.
    """

    after_bytes: int = 0

    def __post_init__(self) -> None:
        if self.after_bytes < 0:
            raise ConfigurationError(["after_bytes of CutOff must be at least 0"])


Fault = PassThrough | Refuse | Reset | Silent | Slow | Trickle | Garbage | CutOff | HttpAnswer
"""Any fault of the proxy."""
