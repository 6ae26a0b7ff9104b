"""A file that takes Figma longer than a caller may wait is fetched once, behind the callers."""

import asyncio
import time

import pytest
from tests.examples.samples import ATLAS, HARBOR
from tests.unit.figma.conftest import SILENT, FigmaSite

from forge_otel import Forge, Settings
from forge_otel.errors import BadRequest, FetchInProgress, ServiceUnavailable
from forge_otel.figma.client import FigmaClient
from forge_otel.figma.response import FigmaResponse
from forge_otel.resilience.deadline import deadline
from forge_otel.testing.faults.proxy import HttpAnswer


async def ask_until_answered(client: FigmaClient, file_key: str = ATLAS) -> FigmaResponse:
    """Ask as a caller that follows `retry_after_s`, only faster."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.file(file_key)
            except FetchInProgress:
                await asyncio.sleep(0.05)


async def test_the_answer_of_a_slow_fetch_is_kept_for_the_next_request(site: FigmaSite) -> None:
    """The caller learns when to ask again; all requests together cost one call."""
    client = await site.client(wait_s=0.1)
    site.contract.gate.clear()
    started_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(FetchInProgress, match="ask again in 1 s") as caught:
            await client.file(ATLAS)
        assert 1 <= (caught.value.retry_after_s or 0) <= 10
    assert time.monotonic() - started_s < 2
    site.contract.gate.set()
    assert (await ask_until_answered(client)).source in {"hit", "miss"}
    assert (await client.node(ATLAS, "1:1")).node_id == "1:1"
    assert site.calls() == 1


async def test_with_the_default_limits_a_fetch_may_take_longer_than_a_caller(site: FigmaSite) -> None:
    """Three seconds are more than the wait of 1.9 s, after which the call was cancelled and charged."""
    client = await site.client(wait_s=1.9)
    site.contract.gate.clear()
    with pytest.raises(FetchInProgress):
        await client.file(ATLAS)
    await asyncio.sleep(1.2)
    site.contract.gate.set()
    await ask_until_answered(client)
    assert site.calls() == 1


async def test_callers_who_were_cancelled_do_not_end_the_fetch(site: FigmaSite) -> None:
    """Neither do callers with a short deadline of their own."""
    client = await site.client(wait_s=5)
    site.contract.gate.clear()
    callers = [asyncio.create_task(client.file(ATLAS)) for _ in range(5)]
    await site.until_requested(1)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    site.contract.gate.set()
    await ask_until_answered(client)
    assert site.calls() == 1


async def test_a_changed_file_is_served_stale_while_it_is_fetched(site: FigmaSite) -> None:
    """Also where every answer of Figma is slow, that for the version included."""
    client = await site.client(wait_s=0.1)
    await ask_until_answered(client)
    site.figma.edit(ATLAS, "1:1", text="Send")
    site.clock.now_s += 400
    site.contract.gate.clear()
    assert [(await client.file(ATLAS)).source for _ in range(3)] == ["stale"] * 3
    site.contract.gate.set()
    async with asyncio.timeout(20):
        while (await client.file(ATLAS)).source == "stale":
            await asyncio.sleep(0.05)
    assert site.calls(ATLAS) == 2


async def test_workers_share_a_running_fetch(site: FigmaSite, fresh_redis: str) -> None:
    """A caller that asks again usually reaches another worker."""
    settings = Settings(cache_url=fresh_redis, cache_secret="a secret of sixteen", **SILENT)
    async with Forge(settings) as one, Forge(settings) as two:
        first, second = await site.client(one, wait_s=0.2), await site.client(two, wait_s=0.2)
        site.contract.gate.clear()
        with pytest.raises(FetchInProgress):
            await first.file(ATLAS)
        for _ in range(3):
            with pytest.raises(FetchInProgress):
                await second.file(ATLAS)
        site.contract.gate.set()
        await asyncio.gather(ask_until_answered(first), ask_until_answered(second))
    assert site.calls() == 1


async def test_a_failure_behind_the_callers_is_reported_and_not_repeated(site: FigmaSite) -> None:
    """A response above the size limit would else be fetched again for each question."""
    client = await site.client(wait_s=0.1, max_response_bytes=100)
    site.contract.gate.clear()
    with pytest.raises(FetchInProgress):
        await client.file(ATLAS)
    site.contract.gate.set()
    for _ in range(3):
        with pytest.raises(BadRequest, match="more than 100 bytes"):
            await ask_until_answered(client)
    assert site.calls() == 1


async def test_an_outage_behind_the_callers_is_reported_once(site: FigmaSite) -> None:
    """The next question starts another fetch, because Figma may have recovered."""
    client = await site.client(wait_s=0.01)
    async with site.proxy.fault(HttpAnswer.unavailable()):
        with pytest.raises(ServiceUnavailable):
            await ask_until_answered(client, HARBOR)
    await ask_until_answered(client, HARBOR)


async def test_an_outage_that_a_waiting_caller_saw_is_not_reported_again(site: FigmaSite) -> None:
    """Also if another caller had left the same fetch before; the next question starts another one."""
    client = await site.client(wait_s=10)
    async with site.proxy.fault(HttpAnswer.unavailable()):
        with deadline(0), pytest.raises(FetchInProgress):
            await client.file(HARBOR)
        waiting = [asyncio.create_task(client.file(HARBOR)) for _ in range(3)]
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(failure) for failure in failures] == [ServiceUnavailable] * 3
    assert (await client.file(HARBOR)).source == "miss"


async def test_a_response_that_is_too_large_is_not_fetched_again_after_a_waiting_caller_saw_it(site: FigmaSite) -> None:
    """It would be as large the next time."""
    client = await site.client(wait_s=10, max_response_bytes=100)
    with deadline(0), pytest.raises(FetchInProgress):
        await client.file(ATLAS)
    for _ in range(3):
        with pytest.raises(BadRequest, match="more than 100 bytes"):
            await client.file(ATLAS)
    assert site.calls() == 1


async def test_a_requested_pause_is_told_to_the_next_caller(site: FigmaSite) -> None:
    """`Retry-After` reaches callers that ask again, and no call is made in it."""
    client = await site.client(wait_s=0.01)
    async with site.proxy.fault(HttpAnswer.too_many_requests(retry_after_s=600)):
        with pytest.raises(ServiceUnavailable) as caught:
            await ask_until_answered(client)
    before = site.calls()
    for _ in range(2):
        with pytest.raises(ServiceUnavailable) as caught:
            await ask_until_answered(client)
        assert (caught.value.retry_after_s or 0) > 500
    assert site.calls() == before


async def test_a_closed_client_leaves_no_fetch_behind(site: FigmaSite) -> None:
    """A running fetch ends with the client."""
    client = await site.client(wait_s=0.05)
    site.contract.gate.clear()
    with pytest.raises(FetchInProgress):
        await client.file(ATLAS)
    before = set(asyncio.all_tasks())
    await client.__aexit__(None, None, None)
    await asyncio.sleep(0.05)
    assert not [task for task in before if not task.done() and "_refresh" in repr(task.get_coro())]
    site.contract.gate.set()
