"""Patterns made in advance: what it is expected to bring is said first, and what is there already is not made again."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TextIO

from forge_otel._internal.ids import new_id
from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest
from forge_otel.layers.pattern.layer import PatternCacheLayer
from forge_otel.types import ZERO_USD, Adapted, Call, GenerationRequest, GenerationResult

__all__ = ["Make", "Precomputed", "precompute"]

Make = Callable[[str, Mapping[str, Any]], Awaitable[Adapted]]
"""``async def make(pattern_id, tokens) -> Adapted``"""

_BAR: Final = 30


@dataclass(slots=True, kw_only=True)
class Precomputed:
    """What came of it.

    Args:
        made: patterns that were made and kept.
        found: token sets for which the pattern was there already.
        failed: token sets for which it could not be made or kept, with the type of the error.
        left_out: token sets that were not tried, because it would have cost more than it brings.
    """

    made: int = 0
    found: int = 0
    failed: list[str] = field(default_factory=list)
    left_out: int = 0
    spent_usd: Decimal = ZERO_USD


async def precompute(
    patterns: PatternCacheLayer,
    pattern_id: str,
    token_sets: Sequence[Mapping[str, Any]],
    make: Make,
    *,
    template: GenerationRequest,
    pipeline: str,
    cost_usd: Decimal,
    expected_hits: float,
    concurrency: int = 2,
    even_at_a_loss: bool = False,
    out: TextIO | None = None,
) -> Precomputed:
    """Make a pattern for many token sets; asked again, it goes on where it was stopped.

    A pattern made in advance costs what the miss would have cost that it prevents: it pays from the second hit on,
    within its life.

    Args:
        patterns: the layer that keeps them.
        make: makes one; what it spends on guarded and traced model calls is counted.
        template: a request for this pattern, of which component type and tenant count.
        pipeline: the name of the pipeline that will use them.
        cost_usd: what one is expected to cost.
        expected_hits: how often each is expected to be asked for within its life.
        concurrency: how many are made at once.
        even_at_a_loss: do it also where it costs more than it is expected to save.
        out: where the expectation and the progress are written; standard error where it is left out.

    Raises:
        BadRequest: `concurrency` or `expected_hits` makes no sense.
    """
    if concurrency < 1 or not expected_hits >= 0:
        raise BadRequest("concurrency must be at least 1, and expected_hits may not be negative")
    result = Precomputed()
    calls = [_call(template, pattern_id, tokens, pipeline) for tokens in token_sets]
    missing = [call for call in calls if not await patterns.known(call, pattern_id)]
    result.found = len(calls) - len(missing)
    progress = _Progress(out or sys.stderr, result, total=len(missing))
    value_usd = (Decimal(str(expected_hits)) - 1) * cost_usd * len(missing)
    progress.announce(pattern_id, spend_usd=cost_usd * len(missing), value_usd=value_usd, life_s=patterns.ttl_s)
    if missing and value_usd < 0 and not even_at_a_loss:
        result.left_out = len(missing)
        progress.refuse()
        return result
    places = asyncio.Semaphore(concurrency)
    async with asyncio.TaskGroup() as group:
        for call in missing:
            group.create_task(_make_one(patterns, pattern_id, call, make, places=places, progress=progress))
    progress.end()
    return result


async def _make_one(
    patterns: PatternCacheLayer,
    pattern_id: str,
    call: Call,
    make: Make,
    *,
    places: asyncio.Semaphore,
    progress: "_Progress",
) -> None:
    async with places:
        # In this task alone: what is spent here is no part of whoever asked.
        generation = Generation(id=new_id(), started_at=datetime.now(UTC), started_s=time.monotonic())
        current_generation.set(generation)
        failure: str | None = None
        try:
            adapted = await make(pattern_id, call.request.tokens)
            adapted = replace(adapted, pattern_id=pattern_id, origin_id=generation.id, cost_usd=generation.spent_usd)
            if not await patterns.keep(call, adapted):
                failure = "not kept"
        except Exception as exc:
            failure = type(exc).__name__
        progress.step(failure, generation.spent_usd)


def _call(template: GenerationRequest, pattern_id: str, tokens: Mapping[str, Any], pipeline: str) -> Call:
    request = replace(template, tokens=tokens, pattern_id=pattern_id)
    return Call(request=request, pipeline=pipeline, key="", component_id="", run=_never)


async def _never() -> GenerationResult:
    raise RuntimeError("what is made in advance is made by its own function")


class _Progress:
    """Says on one line how far it is."""

    def __init__(self, out: TextIO, result: Precomputed, *, total: int) -> None:
        self._out = out
        self._result = result
        self._total = total

    def announce(self, pattern_id: str, *, spend_usd: Decimal, value_usd: Decimal, life_s: float) -> None:
        self._say(
            f"{pattern_id}: {self._total} to make, {self._result.found} there already; expected to spend "
            f"${spend_usd:.2f} and to save ${value_usd:.2f} more than that within {life_s / 3600:g} h\n"
        )

    def refuse(self) -> None:
        self._say("nothing is made: it would cost more than it is expected to save\n")

    def step(self, failure: str | None, spent_usd: Decimal) -> None:
        result = self._result
        result.spent_usd += spent_usd
        if failure is None:
            result.made += 1
        else:
            result.failed.append(failure)
        done = result.made + len(result.failed)
        bar = "#" * (done * _BAR // max(1, self._total))
        self._say(f"\r[{bar:<{_BAR}}] {done}/{self._total}  ${result.spent_usd:.2f}  {len(result.failed)} failed")

    def end(self) -> None:
        if self._total:
            self._say("\n")

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
