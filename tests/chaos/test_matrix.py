"""The harness of the fault matrix: a load that does not wait, and a verdict that misses nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from forge_otel.errors import ConfigurationError
from forge_otel.testing.fault_matrix.exercise import ExerciseResult, OperatorView, SinkTotals, exercise
from forge_otel.testing.fault_matrix.load import Load, RequestResult, percentile
from forge_otel.testing.fault_matrix.matrix import Cell, render, violations

pytestmark = pytest.mark.faults

REFUSING = Cell(
    service="model",
    fault="silent",
    expected="what is new gets a 503",
    outcome="refused",
    refused_within_s=1.0,
    signs=("model:breaker",),
    degraded=("model:none",),
)


def answers(count: int = 100, *, latency_s: float = 0.02, status: int = 200, **facts: Any) -> tuple[RequestResult, ...]:
    """Requests that all had the same fate."""
    return tuple(
        RequestResult(due_s=0.0, latency_s=latency_s, status=status, load="known", **facts) for _ in range(count)
    )


def refusals(**changes: Any) -> tuple[RequestResult, ...]:
    """What cannot be answered without the model, and is refused as it should be."""
    refused = RequestResult(
        due_s=0.0,
        latency_s=0.9,
        status=503,
        code="circuit_open",
        retry_after_s=1.0,
        load="fresh",
        needs=frozenset({"model"}),
    )
    return (replace(refused, **changes),) * 3


def fresh() -> tuple[RequestResult, ...]:
    """The same requests in health."""
    return answers(5, needs=frozenset({"model"}))


KEPT = ExerciseResult(
    healthy=answers() + tuple(replace(answer, load="fresh") for answer in fresh()),
    failing=answers() + refusals(),
    recovering=answers(),
    recovered=answers(),
    recovery_s=1.0,
    during=(OperatorView(signs=frozenset({"model:breaker"})),),
    degraded=frozenset({"model:none"}),
)


def test_a_promise_that_is_kept_passes() -> None:
    """What is known is answered, what is not is refused, and all of it is seen."""
    assert violations(REFUSING, KEPT) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"failing": answers(98) + answers(2, status=500) + refusals()},
            "2 of 200 requests were not answered: 2 x 500",
        ),
        ({"failing": answers()}, "nothing was refused"),
        ({"failing": answers() + refusals(retry_after_s=None)}, "3 of 3 refusals are no clear 503"),
        ({"failing": answers() + refusals(status=500)}, "3 of 3 refusals are no clear 503"),
        ({"failing": answers() + refusals(latency_s=1.2)}, "a refusal took 1.200 s"),
        ({"failing": answers(latency_s=0.04) + refusals()}, "0.020 s were added to the 99th percentile of known"),
        ({"recovered": answers(98) + answers(2, status=503)}, "afterwards 2 of 100 requests were not answered"),
        ({"recovered": ()}, "afterwards 0 of 0 requests"),
        ({"recovery_s": None}, "it recovered after None s"),
        ({"recovery_s": 11.0}, "it recovered after 11.0 s"),
        ({"during": ()}, "nobody could see: model:breaker"),
        ({"after": OperatorView(signs=frozenset({"model:breaker"}))}, "it still says: model:breaker"),
        ({"degraded": frozenset()}, "no record says: model:none"),
        (
            {"after": OperatorView(tallies={"database": SinkTotals(produced=3, delivered=1, waiting=1)})},
            "the books of database do not balance",
        ),
    ],
)
def test_a_broken_promise_is_named(changes: dict[str, Any], sentence: str) -> None:
    """One thing is not as promised, and exactly that is said."""
    (fault,) = violations(REFUSING, replace(KEPT, **changes))
    assert sentence in fault


def test_noise_of_the_machine_is_no_fault() -> None:
    """Where a healthy service's 99th percentile is far above its median, a fault may add as much."""
    noisy = answers(95) + answers(5, latency_s=0.2)
    cell = Cell(service="cache", fault="slow", expected="as ever")
    outcome = replace(KEPT, healthy=noisy, failing=answers(95) + answers(5, latency_s=0.35))
    assert violations(cell, outcome) == ()
    assert violations(cell, replace(outcome, failing=answers(latency_s=0.45))) != ()


def test_the_absence_of_a_service_that_restarts_is_no_fault() -> None:
    """Nobody can answer for a process that is gone; what it took with it counts, and so does a port that stays shut."""
    nobody, broken = (answers(60, status=0, code=code) for code in ("ConnectError", "ReadError"))
    cell = Cell(service="disk", fault="restart", expected="as ever", restarts=True)
    outcome = replace(KEPT, failing=answers() + nobody)
    assert violations(cell, outcome) == ()
    assert violations(replace(cell, restarts=False), outcome) != ()
    assert violations(cell, replace(KEPT, failing=answers() + broken)) != ()
    assert violations(cell, replace(KEPT, recovered=answers() + nobody)) != ()


def test_refusals_need_a_limit_of_time() -> None:
    """A cell that promises a clear refusal and does not say how soon is a mistake."""
    with pytest.raises(ConfigurationError, match="refused_within_s"):
        Cell(service="model", fault="silent", expected="a 503", outcome="refused")


async def test_the_load_does_not_wait_for_answers() -> None:
    """While the service hangs requests go out all the same, and latencies count from when they were due."""
    hangs = asyncio.Event()

    async def send(_number: int) -> httpx.Response:
        await hangs.wait()
        return httpx.Response(200)

    async with Load(send, rate_per_s=200) as load:
        began_s = time.monotonic()
        while time.monotonic() - began_s < 0.3:
            await asyncio.sleep(0.01)
        hangs.set()
    assert len(load.answers) >= 30
    assert max(answer.latency_s for answer in load.answers) >= 0.3
    assert all(answer.is_good for answer in load.answers)


async def test_the_load_remembers_how_requests_ended() -> None:
    """A problem with its code and its time to wait, no answer at all, and one that is not whole."""
    ends = [
        httpx.Response(503, headers={"Retry-After": "7"}, json={"code": "circuit_open"}),
        httpx.Response(500, content=b"<html>"),
        httpx.Response(200, json=["whole"]),
        httpx.Response(200, content=b'["cut'),
    ]

    async def send(number: int) -> httpx.Response:
        if number >= len(ends):
            raise httpx.ConnectError("nobody there")
        return ends[number]

    async with Load(send, rate_per_s=100, keep=lambda response: response.json()) as load:
        while len(load.answers) <= len(ends):
            await asyncio.sleep(0.01)
    told = [(answer.status, answer.code, answer.retry_after_s, answer.kept) for answer in load.answers[:5]]
    assert told == [
        (503, "circuit_open", 7.0, None),
        (500, "", None, None),
        (200, "", None, ["whole"]),
        (0, "JSONDecodeError", None, None),
        (0, "ConnectError", None, None),
    ]


async def test_answers_are_put_where_they_belong() -> None:
    """Requests that were due under the fault are told apart from those before and after, and recovery is timed."""
    status = 200

    @asynccontextmanager
    async def fault() -> AsyncIterator[None]:
        nonlocal status
        status = 503
        yield
        status = 200

    async def send(_number: int) -> httpx.Response:
        return httpx.Response(status, json={})

    async def observe() -> OperatorView:
        return OperatorView(signs=frozenset({"down"} if status == 503 else ()))

    async def has_recovered() -> bool:
        return status == 200

    async with Load(send, rate_per_s=100) as load:
        outcome = await exercise(
            [load], fault(), observe=observe, has_recovered=has_recovered, healthy_s=0.3, failing_s=0.6
        )
    assert {answer.status for answer in outcome.healthy} == {200}
    assert {answer.status for answer in outcome.failing} == {503}
    assert {answer.status for answer in outcome.recovered} == {200}
    assert outcome.signs == {"down"}
    assert outcome.after.signs == frozenset()
    assert outcome.recovery_s is not None


async def test_the_fault_lasts_until_it_was_seen() -> None:
    """A sign that comes late is seen all the same; one that never comes is waited for in vain, but not for ever."""
    looks = 0

    async def observe() -> OperatorView:
        nonlocal looks
        looks += 1
        return OperatorView(signs=frozenset({"late"} if looks > 3 else ()))

    async def has_recovered() -> bool:
        return True

    async def signs_of(sign: str, *, patience_s: float) -> frozenset[str]:
        outcome = await exercise(
            [],
            AsyncExitStack(),
            observe=observe,
            has_recovered=has_recovered,
            signs=[sign],
            healthy_s=0.0,
            failing_s=0.0,
            patience_s=patience_s,
        )
        return outcome.signs

    assert "late" in await signs_of("late", patience_s=60.0)
    assert "never" not in await signs_of("never", patience_s=0.5)


def test_percentiles_are_values_that_were_measured() -> None:
    """The smallest that covers the share; NaN of nothing."""
    assert [percentile(range(1, 101), share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([], 0.5) != percentile([], 0.5)


def test_the_page_shows_every_cell() -> None:
    """Cells that pass, fail, were not run and do not exist are told apart, with the reason for the last."""
    cells = [
        Cell(service="cache", fault="silent", expected="as ever", signs=("cache:breaker",)),
        Cell(service="cache", fault="full", expected="as ever"),
        Cell(service="model", fault="silent", expected="as ever"),
        Cell(service="model", fault="full", expected="A model has no disk.", outcome="n/a"),
    ]
    page = render(cells, {"cache-silent": (), "cache-full": ("late",)})
    assert "| **cache** | answered: passes | answered: fails |" in page
    assert "| **model** | answered: not run | n/a |" in page
    assert "- full: there is no such cell. A model has no disk." in page
    assert "`cache:breaker`" in page
