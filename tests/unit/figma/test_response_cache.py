"""L0 serves cached responses, revalidates them by version, and serves stale copies in outages."""

import asyncio
import time
from typing import Any

import pytest
from tests.examples.samples import ATLAS, HARBOR
from tests.unit.figma.conftest import SILENT, FigmaSite

from forge_otel import Forge, Settings
from forge_otel.errors import BadRequest, NotFound, ServiceUnavailable
from forge_otel.figma.response import FigmaResponse
from forge_otel.resilience.deadline import deadline
from forge_otel.testing.faults.proxy import Garbage, HttpAnswer, Refuse, Silent

FILE = f"/v1/files/{ATLAS}"


async def test_after_five_minutes_the_version_is_requested_and_not_the_file(site: FigmaSite) -> None:
    """An unchanged file costs one cheap request each five minutes."""
    client = await site.client()
    await asyncio.gather(client.file(ATLAS), client.nodes(ATLAS, ["1:1"]), client.styles(ATLAS))
    probes = site.calls("/meta")
    site.clock.now_s += 301
    responses = await asyncio.gather(client.file(ATLAS), client.nodes(ATLAS, ["1:1"]), client.styles(ATLAS))
    assert {response.source for response in responses} == {"revalidated"}
    assert (await client.file(ATLAS)).source == "hit"
    assert (site.calls(ATLAS), site.calls("/nodes"), site.calls("/styles")) == (1, 1, 1)
    assert site.calls("/meta") - probes == 1


async def test_an_edit_is_visible_after_five_minutes_at_the_latest(site: FigmaSite) -> None:
    """The version has changed, so the file is fetched; unchanged nodes keep their hash."""
    client = await site.client()
    button, badge = await client.node(ATLAS, "1:1"), await client.node(ATLAS, "1:40")
    site.figma.edit(ATLAS, "1:1", text="Send")
    assert (await client.node(ATLAS, "1:1")).content_hash == button.content_hash
    site.clock.now_s += 301
    assert (await client.node(ATLAS, "1:1")).content_hash != button.content_hash
    assert (await client.node(ATLAS, "1:40")).content_hash == badge.content_hash
    assert site.calls(ATLAS) == 2


async def test_a_pinned_version_is_never_requested_again(site: FigmaSite) -> None:
    """It cannot change."""
    client = await site.client()
    await client.file(ATLAS, version="17")
    site.clock.now_s += 24 * 3600
    assert (await client.file(ATLAS, version="17")).source == "hit"
    assert site.calls("/meta") == 0


async def test_images_are_cached_until_the_file_changes(site: FigmaSite) -> None:
    """Their response has no version, so it is requested."""
    client = await site.client()
    first = await client.images(ATLAS, ["1:1", "9:99"])
    assert first.body["images"]["9:99"] is None
    assert (await client.images(ATLAS, ["1:1", "9:99"])).source == "hit"
    site.figma.edit(ATLAS, "1:1", text="Send")
    site.clock.now_s += 301
    assert (await client.images(ATLAS, ["1:1", "9:99"])).body != first.body


async def test_invalidation_fetches_and_touch_revalidates(site: FigmaSite) -> None:
    """A touched file only has its version checked."""
    client = await site.client()
    await client.file(ATLAS)
    await client.touch(ATLAS)
    assert (await client.file(ATLAS)).source == "revalidated"
    await client.invalidate(ATLAS)
    response = await client.file(ATLAS)
    assert (response.source, response.reason) == ("miss", "epoch")
    assert (await client.file(ATLAS)).source == "hit"


async def test_a_call_after_an_invalidation_does_not_join_an_earlier_fetch(site: FigmaSite) -> None:
    """That fetch may have read the old design, and is not cached."""
    client = await site.client()
    site.contract.gate.clear()
    early = asyncio.create_task(client.file(ATLAS))
    await site.until_requested(1)
    await client.invalidate(ATLAS)
    late = asyncio.create_task(client.file(ATLAS))
    await site.until_requested(2)
    site.contract.gate.set()
    assert [response.source for response in await asyncio.gather(early, late)] == ["miss", "miss"]


@pytest.mark.parametrize("fault", [Refuse(), Garbage(), HttpAnswer.unauthorized(), HttpAnswer.unavailable()])
async def test_a_failing_figma_is_replaced_by_stale_copies(site: FigmaSite, fault: Any) -> None:
    """They carry their age; without a copy there is an error."""
    client = await site.client()
    fresh = await client.node(ATLAS, "1:1")
    site.clock.now_s += 400
    async with site.proxy.fault(fault):
        stale = await client.node(ATLAS, "1:1")
        with pytest.raises(ServiceUnavailable, match="not available; try again"):
            await client.node(HARBOR, "1:1")
    assert (stale.is_stale, stale.age_s, stale.document) == (True, 400.0, fresh.document)


async def test_one_call_detects_an_outage(site: FigmaSite) -> None:
    """After its timeout later calls are served stale at once."""
    client = await site.client(wait_s=1.9)
    files = ATLAS, HARBOR
    for file_key in files:
        await client.file(file_key)
    site.clock.now_s += 400
    async with site.proxy.fault(Silent()):
        first = asyncio.create_task(client.file(ATLAS))
        # Most of the two seconds of the first call, so that the later ones are far from their own timeout.
        await asyncio.sleep(1.5)
        responses, started_s = [await first], time.monotonic()
        responses += [await client.file(HARBOR), await client.file(ATLAS), await client.file(HARBOR)]
        assert [response.source for response in responses] == ["stale"] * 4
        assert time.monotonic() - started_s < 1
    # The refresh continues in the background, so the recovery is noticed.
    async with asyncio.timeout(60):
        while (await client.file(ATLAS)).source == "stale":
            await asyncio.sleep(0.05)


async def test_running_calls_end_when_an_outage_is_detected(site: FigmaSite) -> None:
    """They do not wait for their own two seconds."""
    client = await site.client(wait_s=1.9)
    for file_key in (ATLAS, HARBOR):
        await client.file(file_key)
    site.clock.now_s += 400
    async with site.proxy.fault(Silent()):
        first = asyncio.create_task(client.file(ATLAS))
        await asyncio.sleep(1.5)
        second = asyncio.create_task(client.file(HARBOR))
        assert (await first).source == "stale"
        assert (await second).source == "stale"


async def test_no_request_is_sent_in_a_requested_pause(site: FigmaSite) -> None:
    """A pause of days applies to all files of the tier; stale copies are served, and cheap requests continue."""
    client = await site.client()
    await client.file(ATLAS)
    async with site.proxy.fault(HttpAnswer.too_many_requests(retry_after_s=396_749)):
        with pytest.raises(ServiceUnavailable) as rejected:
            await client.file(HARBOR)
    assert rejected.value.retry_after_s is not None
    before = site.calls()
    site.figma.edit(ATLAS, "1:1", text="Send")
    site.clock.now_s += 3600
    assert (await client.file(ATLAS)).source == "stale"
    assert (site.calls() - before, site.calls("/meta")) == (1, 1)
    site.clock.now_s += 396_749
    assert (await client.file(ATLAS)).source == "miss"


async def test_a_pause_is_shared_by_workers(site: FigmaSite, fresh_redis: str) -> None:
    """Workers share pauses, responses and invalidations."""
    settings = Settings(cache_url=fresh_redis, cache_secret="a secret of sixteen", **SILENT)
    async with Forge(settings) as one, Forge(settings) as two:
        first, second = await site.client(one), await site.client(two)
        await first.file(ATLAS)
        assert (await second.file(ATLAS)).source == "hit"
        await first.invalidate(ATLAS)
        assert (await second.file(ATLAS)).reason == "epoch"
        async with site.proxy.fault(HttpAnswer.too_many_requests(retry_after_s=60)):
            with pytest.raises(ServiceUnavailable):
                await first.file(HARBOR)
        before = site.calls()
        with pytest.raises(ServiceUnavailable, match="try again in"):
            await second.file(HARBOR)
        assert site.calls() == before


async def test_without_the_shared_store_each_worker_has_its_own_copy(site: FigmaSite, redis_server: Any) -> None:
    """Without Redis the responses of this process are still cached."""
    settings = Settings(cache_url=redis_server.url, **SILENT)
    async with Forge(settings) as forge:
        client = await site.client(forge)
        await client.file(ATLAS)
        await asyncio.to_thread(redis_server.kill)
        assert (await client.file(ATLAS)).source == "hit"
        await client.file(HARBOR)
        assert (await client.file(HARBOR)).source == "hit"
    assert (site.calls(ATLAS), site.calls(HARBOR)) == (1, 1)


@pytest.mark.parametrize(("file_key", "error"), [("unknown", NotFound), ("../../etc", BadRequest), ("", BadRequest)])
async def test_a_missing_file_is_cached_for_seconds(site: FigmaSite, file_key: str, error: type[Exception]) -> None:
    """A malformed key is not requested at all."""
    client = await site.client(negative_s=0.2)
    for _ in range(3):
        with pytest.raises(error):
            await client.file(file_key)
    assert site.calls() == (error is NotFound)


async def test_a_file_without_access_is_not_served_in_an_outage(site: FigmaSite) -> None:
    """403 removes its entry."""
    client = await site.client(negative_s=0.01)
    await client.file(ATLAS)
    site.clock.now_s += 400
    body = b'{"status":403,"err":"Not allowed"}'
    async with site.proxy.fault(HttpAnswer(status=403, body=body)):
        with pytest.raises(NotFound, match="may not see"):
            await client.file(ATLAS)
    async with site.proxy.fault(Refuse()), asyncio.timeout(5):
        raised: Exception | None = None
        while not isinstance(raised, ServiceUnavailable):
            # NotFound for as long as that is cached.
            with pytest.raises((NotFound, ServiceUnavailable)) as caught:
                await client.file(ATLAS)
            raised = caught.value
            await asyncio.sleep(0.01)


async def test_a_token_without_access_to_metadata_fetches(site: FigmaSite) -> None:
    """The file is fetched every five minutes, and its version is used for the other responses."""
    site.contract.closed.add("/meta")
    client = await site.client()
    responses = []
    for seconds in (0, 1, 301, 1):
        site.clock.now_s += seconds
        responses.append(((await client.file(ATLAS)).source, (await client.styles(ATLAS)).source))
    assert responses == [("miss", "miss"), ("hit", "hit"), ("miss", "hit"), ("hit", "hit")]


async def test_a_cancelled_caller_does_not_end_a_shared_call(site: FigmaSite) -> None:
    """Neither does the deadline of the first caller."""
    client = await site.client()

    async def hurried() -> FigmaResponse:
        with deadline(0.001):
            return await client.file(ATLAS)

    first, second = asyncio.create_task(hurried()), asyncio.create_task(client.file(ATLAS))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).source == "miss"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert site.calls() == 1
