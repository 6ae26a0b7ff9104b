"""How long the offline model takes: as long as a real one, divided by a factor that is told wherever it matters."""

import hashlib
from dataclasses import dataclass

__all__ = ["Pace", "estimate_tokens", "pace_for"]

CHARS_PER_TOKEN = 4
"""The usual rule of thumb for English and code; the offline model has no tokenizer."""

_SLOWEST_TOKENS_PER_S, _FASTEST_TOKENS_PER_S = 40, 75
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.4, 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The pace of one answer, in the time of the caller's clock (the scaling is in it).

    Args:
        first_token_s: time until the first token.
        tokens_per_s: speed from then on.
    """

    first_token_s: float
    tokens_per_s: float

    def due_s(self, tokens: int) -> float:
        """Return when that many tokens are written, in seconds after the request."""
        return self.first_token_s + tokens / self.tokens_per_s


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has: one for every four characters, and at least one if there is a text."""
    return -(-len(text) // CHARS_PER_TOKEN)


def pace_for(prompt: str, *, time_scale: float) -> Pace:
    """Return the pace of the answer to a prompt; the same prompt always has the same pace.

    Args:
        time_scale: how many times faster than a real model; 50 makes a minute 1.2 seconds.
    """
    seed = hashlib.sha256(prompt.encode(errors="replace")).digest()
    wait, speed = seed[0] / 255, seed[1] / 255
    return Pace(
        first_token_s=(_SHORTEST_WAIT_S + wait * (_LONGEST_WAIT_S - _SHORTEST_WAIT_S)) / time_scale,
        tokens_per_s=(_SLOWEST_TOKENS_PER_S + speed * (_FASTEST_TOKENS_PER_S - _SLOWEST_TOKENS_PER_S)) * time_scale,
    )
