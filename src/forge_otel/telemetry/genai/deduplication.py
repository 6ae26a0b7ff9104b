"""Recognition of model calls that were counted already, on spans below.

Agent frameworks repeat the usage of the client library's spans on a span of their own, often as a sum over several
calls: a span that ends above one of the same model is such a repetition. An application that reports a call repeats an
instrumentation only with the same token counts, or their sum; other counts are another call.
"""

from collections import deque
from typing import Final

from forge_otel.telemetry.genai.usage import ModelCall, same_model

__all__ = ["SeenCalls"]

_MAX_CALLS: Final = 256

Models = tuple[str, ...]
TokenCounts = tuple[int, int]


class SeenCalls:
    """The model calls that were counted below one span."""

    __slots__ = ("_models", "_unreported")

    def __init__(self) -> None:
        self._models: set[Models] = set()
        # By model, the calls of instrumentations that the application has not reported as well.
        self._unreported: dict[Models, deque[TokenCounts]] = {}

    def add(self, call: ModelCall, *, is_reported: bool) -> None:
        """Add a call that was counted below.

        Args:
            is_reported: whether the application reported it; else an instrumentation's span did.
        """
        self._models.add(call.models)
        if not is_reported:
            self._unreported.setdefault(call.models, deque(maxlen=_MAX_CALLS)).append(_counts(call))

    def has_model_of(self, call: ModelCall) -> bool:
        """Return whether a call of the same model was counted, which a span that ends with `call` repeats."""
        return any(_may_be_same(call.models, models) for models in self._models)

    def take(self, call: ModelCall) -> bool:
        """Return whether `call`, reported by the application, repeats calls of instrumentations; remove these."""
        wanted = _counts(call)
        for models, seen in self._unreported.items():
            if not seen or not _may_be_same(call.models, models):
                continue
            if wanted in seen:
                seen.remove(wanted)
                return True
            if wanted == (sum(sent for sent, _ in seen), sum(received for _, received in seen)):
                seen.clear()
                return True
        return False


def _counts(call: ModelCall) -> TokenCounts:
    return call.usage.input_tokens, call.usage.output_tokens


def _may_be_same(models: Models, others: Models) -> bool:
    # A call without a model name may be one of any model.
    if not models or not others:
        return True
    return any(same_model(one, other) for one in models for other in others)
