"""Precomputes patterns for many token sets, skipping those that are stored, after an estimate of cost and benefit."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TextIO

from forge_otel._internal.ids import new_id
from forge_otel.context import Generation, current_generation
from forge_otel.errors import BadRequest
from forge_otel.layers.pattern.layer import PatternCacheLayer
from forge_otel.types import ZERO_USD, Adapted, Call, GenerationRequest, GenerationResult

__all__ = ["Make", "Precomputed", "precompute"]

Make = Callable[[str, Mapping[str, Any]], Awaitable[Adapted]]
"""``async def make(pattern_id, tokens) -> Adapted``"""


@dataclass(slots=True, kw_only=True)
class Precomputed:
    """Result of a precomputation.

    Args:
        made: number of patterns made and stored.
        found: number of token sets whose pattern was stored before.
        failed: error type of each token set whose pattern could not be made or stored.
        skipped: number of token sets not attempted, because the cost exceeds the expected saving.
        spent_usd: cost of the model calls.
    """

    made: int = 0
    found: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
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
    """Make a pattern for each token set that has none; a repeated call continues where an earlier one stopped.

    Making a pattern in advance costs as much as the first miss that it prevents, so it pays from the second hit within
    its TTL.

    Args:
        patterns: the layer that stores the patterns.
        pattern_id: of the pattern.
        token_sets: design tokens, one mapping per pattern to make.
        make: makes one pattern; the cost of its model calls is recorded.
        template: a request for this pattern; its component type and tenant apply to every pattern.
        pipeline: name of the pipeline that will use the patterns.
        cost_usd: expected cost of one pattern.
        expected_hits: expected number of requests for each pattern within its TTL.
        concurrency: number of patterns made at the same time.
        even_at_a_loss: whether to continue if the expected saving is negative.
        out: receives the estimate and the progress; standard error by default.

    Raises:
        BadRequest: `concurrency` is below 1, or `expected_hits` is negative or NaN.
    """
    if concurrency < 1 or not expected_hits >= 0:
        raise BadRequest("concurrency must be at least 1, and expected_hits may not be negative")
    result = Precomputed()
    calls = [_call(template, pattern_id, tokens, pipeline) for tokens in token_sets]
    missing = [call for call in calls if not await patterns.contains(call, pattern_id)]
    result.found = len(calls) - len(missing)
    progress = _Progress(out or sys.stderr, result, total=len(missing))
    value_usd = (Decimal(str(expected_hits)) - 1) * cost_usd * len(missing)
    progress.announce(pattern_id, spend_usd=cost_usd * len(missing), value_usd=value_usd, ttl_s=patterns.ttl_s)
    if missing and value_usd < 0 and not even_at_a_loss:
        result.skipped = len(missing)
        progress.refuse()
        return result
    slots = asyncio.Semaphore(concurrency)
    async with asyncio.TaskGroup() as group:
        for call in missing:
            group.create_task(_make_one(patterns, pattern_id, call, make, slots=slots, progress=progress))
    return result


async def _make_one(
    patterns: PatternCacheLayer,
    pattern_id: str,
    call: Call,
    make: Make,
    *,
    slots: asyncio.Semaphore,
    progress: "_Progress",
) -> None:
    async with slots:
        # Set in this task only: the cost must not be added to the generation of the caller.
        generation = Generation(id=new_id(), started_at=datetime.now(UTC), started_s=time.monotonic())
        current_generation.set(generation)
        failure: str | None = None
        try:
            adapted = await make(pattern_id, call.request.tokens)
            adapted = replace(adapted, pattern_id=pattern_id, origin_id=generation.id, cost_usd=generation.spent_usd)
            if not await patterns.store(call, adapted):
                failure = "not stored"
        except Exception as exc:
            failure = type(exc).__name__
        progress.step(failure, generation.spent_usd)


def _call(template: GenerationRequest, pattern_id: str, tokens: Mapping[str, Any], pipeline: str) -> Call:
    request = replace(template, tokens=tokens, pattern_id=pattern_id)
    return Call(request=request, pipeline=pipeline, key="", component_id="", run=_never)


async def _never() -> GenerationResult:
    raise RuntimeError("precomputation calls `make`, never the pipeline")


class _Progress:
    """Writes the estimate, and a line for each pattern that is done."""

    def __init__(self, out: TextIO, result: Precomputed, *, total: int) -> None:
        self._out = out
        self._result = result
        self._total = total

    def announce(self, pattern_id: str, *, spend_usd: Decimal, value_usd: Decimal, ttl_s: float) -> None:
        self._write(
            f"{pattern_id}: {self._total} to make, {self._result.found} already stored; expected cost "
            f"${spend_usd:.2f}, expected net saving ${value_usd:.2f} within {ttl_s / 3600:g} h\n"
        )

    def refuse(self) -> None:
        self._write(
            "nothing is made: the expected cost exceeds the expected saving; pass even_at_a_loss=True to continue\n"
        )

    def step(self, failure: str | None, spent_usd: Decimal) -> None:
        result = self._result
        result.spent_usd += spent_usd
        if failure is None:
            result.made += 1
        else:
            result.failed.append(failure)
        done = result.made + len(result.failed)
        self._write(f"{done}/{self._total}  ${result.spent_usd:.2f}  {len(result.failed)} failed\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
