"""What has been told of model calls below a span, so that no call counts twice and none is taken for another.

Agent frameworks repeat on a span what the client library has said on spans below it, often as a sum over several
calls: a span that ends above one of the same model is such a repetition. A program that tells of a call by itself
repeats only what an instrumentation has seen, and then with its figures: the same counts, or their sum. Any other
figures are another call.
"""

from collections import deque
from typing import Final

from forge_otel.telemetry.genai.usage import ModelCall, same_model

__all__ = ["SeenCalls"]

_MAX_CALLS: Final = 256

Models = tuple[str, ...]
Counts = tuple[int, int]


class SeenCalls:
    """The model calls below one span."""

    __slots__ = ("_models", "_seen")

    def __init__(self) -> None:
        self._models: set[Models] = set()
        # Of each model, what spans told and no program has repeated yet.
        self._seen: dict[Models, deque[Counts]] = {}

    def add(self, call: ModelCall, *, by_program: bool) -> None:
        """Note a call that was counted below.

        Args:
            by_program: it was told of by the program itself, and not by a span.
        """
        self._models.add(call.models)
        if not by_program:
            self._seen.setdefault(call.models, deque(maxlen=_MAX_CALLS)).append(_counts(call))

    def repeats(self, call: ModelCall) -> bool:
        """Tell whether a span that ends with `call` repeats what is below it."""
        return any(_alike(call.models, models) for models in self._models)

    def repeats_by_program(self, call: ModelCall) -> bool:
        """Tell whether a program that tells of `call` repeats what spans told; they are not repeated a second time."""
        wanted = _counts(call)
        for models, seen in self._seen.items():
            if not seen or not _alike(call.models, models):
                continue
            if wanted in seen:
                seen.remove(wanted)
                return True
            if wanted == (sum(sent for sent, _ in seen), sum(received for _, received in seen)):
                seen.clear()
                return True
        return False


def _counts(call: ModelCall) -> Counts:
    return call.usage.input_tokens, call.usage.output_tokens


def _alike(models: Models, told: Models) -> bool:
    if not models or not told:
        return True
    return any(same_model(one, other) for one in models for other in told)
