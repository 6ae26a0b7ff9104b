"""What answers instead of a service that does not: cached data, another model, a simpler way, or a clear refusal.

Fallbacks are the outermost policy: they are asked when all attempts are over, in their order, and run outside of the
failed call's deadline but inside that of its caller. Each one that answers is noted on the running generation
(`degraded`). The caller's own mistakes are not covered up: they go to the caller.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from forge_otel.context import current_generation
from forge_otel.errors import ServiceUnavailable
from forge_otel.resilience.retry import Verdict, classify

__all__ = ["Fallback", "first_answer", "is_outage", "unavailable"]

_RETRY_AFTER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """One way to answer without the service.

    Args:
        label: says on spans, records and the dashboard what served instead, for example `"figma:cached"`.
        answer: called with the error and then with the arguments of the failed call; may be async. What it raises
            passes the question on to the next fallback.
    """

    label: str
    answer: Callable[..., Any]


def is_outage(exc: Exception, verdict: Verdict) -> bool:
    """Whether a fallback may answer: the service is to blame, or was not even asked."""
    return isinstance(exc, ServiceUnavailable) or verdict.kind != "ignore"


async def first_answer(
    fallbacks: Sequence[Fallback], exc: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, Any]:
    """Ask the fallbacks in their order.

    Args:
        fallbacks: at least one.
        exc: why the service did not answer.
        args, kwargs: the arguments of the failed call.

    Returns:
        The label and the answer of the first one that answers, which is noted on the running generation.

    Raises:
        Exception: what the last one raised, if none answers; its context is `exc`.
    """
    *earlier, last = fallbacks
    for fallback in earlier:
        try:
            return fallback.label, await _ask(fallback, exc, args, kwargs)
        except Exception:  # noqa: S112 - the next one is asked; how the last one fails is told
            continue
    return last.label, await _ask(last, exc, args, kwargs)


async def _ask(fallback: Fallback, exc: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    answer = fallback.answer(exc, *args, **kwargs)
    if inspect.isawaitable(answer):
        answer = await answer
    generation = current_generation.get()
    if generation is not None:
        generation.record_degraded(fallback.label)
    return answer


def unavailable(name: str, *, retry_after_s: float = _RETRY_AFTER_S) -> Fallback:
    """Return the last resort: a clear 503 in place of whatever the service's client raised.

    Args:
        name: the service's name.
        retry_after_s: what the caller is told to wait in seconds, where neither the service nor its breaker said it.
    """

    def refuse(exc: Exception, *_args: object, **_kwargs: object) -> NoReturn:
        asked_s = exc.retry_after_s if isinstance(exc, ServiceUnavailable) else classify(exc).retry_after_s
        wait_s = retry_after_s if asked_s is None else asked_s
        raise ServiceUnavailable(
            f"{name!r} is not available; try again in {wait_s:.0f} s", retry_after_s=wait_s
        ) from exc

    return Fallback(f"{name}:unavailable", refuse)
