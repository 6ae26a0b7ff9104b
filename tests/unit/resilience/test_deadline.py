"""A nested call never has more time than its outer call."""

import asyncio
import math

import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.resilience.deadline import DeadlineOptions, deadline, remaining_s
from forge_otel.testing.clock import ManualClock


def test_without_a_deadline_the_remaining_time_is_infinite() -> None:
    """Also after one has ended."""
    assert remaining_s() == math.inf
    with deadline(1.0):
        pass
    assert remaining_s() == math.inf


def test_an_inner_deadline_is_capped_by_the_outer_one() -> None:
    """The outer one applies again after the block."""
    clock = ManualClock()
    with deadline(10.0, clock=clock):
        clock.advance(4.0)
        with deadline(60.0, clock=clock):
            assert remaining_s(clock=clock) == 6.0
        with deadline(2.0, clock=clock):
            assert remaining_s(clock=clock) == 2.0
        assert remaining_s(clock=clock) == 6.0
        clock.advance(60.0)
        assert remaining_s(clock=clock) == 0.0


async def test_tasks_share_the_deadline_until_the_call_ends() -> None:
    """A task that outlives the call is no longer limited."""
    clock, seen = ManualClock(), []
    is_over = asyncio.Event()

    async def background() -> None:
        seen.append(remaining_s(clock=clock))
        await is_over.wait()
        seen.append(remaining_s(clock=clock))

    with deadline(10.0, clock=clock):
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
    is_over.set()
    await task
    assert seen == [10.0, math.inf]


def test_a_deadline_of_zero_is_rejected() -> None:
    """inf means no deadline."""
    with pytest.raises(ConfigurationError):
        DeadlineOptions(total_s=0.0)
