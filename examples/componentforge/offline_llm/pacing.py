"""Latency of the offline model: that of a real model divided by `time_scale`."""

import hashlib
from dataclasses import dataclass

__all__ = ["Pace", "estimate_tokens", "pace_for"]

CHARS_PER_TOKEN = 4
"""Rule of thumb for English and code, since the offline model has no tokenizer."""

_SLOWEST_TOKENS_PER_S, _FASTEST_TOKENS_PER_S = 40, 75
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.4, 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Pace of one answer, after scaling.

    Args:
        first_token_s: time to first token, in seconds.
        tokens_per_s: output speed after the first token.
    """

    first_token_s: float
    tokens_per_s: float

    def due_s(self, tokens: int) -> float:
        """Return the seconds from the request until `tokens` tokens are written."""
        return self.first_token_s + tokens / self.tokens_per_s


def estimate_tokens(text: str) -> int:
    """Return the estimated number of tokens: one per four characters, rounded up."""
    return -(-len(text) // CHARS_PER_TOKEN)


def pace_for(prompt: str, *, time_scale: float) -> Pace:
    """Return the pace of the answer to a prompt; the same prompt always has the same pace.

    Args:
        prompt: seeds the variation between requests.
        time_scale: speed-up; with 50, a minute becomes 1.2 s.
    """
    seed = hashlib.sha256(prompt.encode(errors="replace")).digest()
    wait, speed = seed[0] / 255, seed[1] / 255
    return Pace(
        first_token_s=(_SHORTEST_WAIT_S + wait * (_LONGEST_WAIT_S - _SHORTEST_WAIT_S)) / time_scale,
        tokens_per_s=(_SLOWEST_TOKENS_PER_S + speed * (_FASTEST_TOKENS_PER_S - _SLOWEST_TOKENS_PER_S)) * time_scale,
    )
