"""L0: what is asked of Figma, and what is answered from what is kept."""

import asyncio
from typing import Any

import pytest
from tests.examples.samples import ATLAS, HARBOR
from tests.unit.figma.conftest import SILENT, Desk

from forge_otel import Forge, Settings
from forge_otel.errors import BadRequest, ConfigurationError, NotFound, ServiceUnavailable
from forge_otel.figma.client import FigmaClient
from forge_otel.figma.response import FigmaResponse
from forge_otel.resilience.deadline import deadline
from forge_otel.testing.faults.proxy import Garbage, HttpAnswer, Refuse, Silent

FILE = f"/v1/files/{ATLAS}"


async def test_a_hundred_generations_on_an_unchanged_file_fetch_it_once(desk: Desk) -> None:
    """Whatever nodes are read, by however many at once: one call for the file, and none for a node."""
    client = await desk.client()
    names = ["1:1", "1:29", "1:40", "2:1", "2:13", "2:44", "3:1", "3:26"]
    for _ in range(10):
        await asyncio.gather(*(client.node(ATLAS, names[number % len(names)]) for number in range(10)))
    assert dict(desk.figma.requests) == {FILE: 1}


async def test_a_node_is_what_the_nodes_endpoint_says(desk: Desk) -> None:
    """Read out of the whole file, a node has the same content hash as when it is asked for alone."""
    whole, alone = await desk.client(), await desk.client(max_response_bytes=40_000)
    assert (await whole.node(ATLAS, "1:40")).content_hash == (await alone.node(ATLAS, "1:40")).content_hash
    assert (desk.calls(ATLAS), desk.calls("/nodes")) == (2, 1)
    await alone.node(ATLAS, "1:1")
    assert (desk.calls(ATLAS), desk.calls("/nodes")) == (2, 2)


async def test_after_five_minutes_the_version_is_asked_for_and_not_the_file(desk: Desk) -> None:
    """An unchanged file costs one cheap call each five minutes, whatever is read of it."""
    client = await desk.client()
    await asyncio.gather(client.file(ATLAS), client.nodes(ATLAS, ["1:1"]), client.styles(ATLAS))
    probes = desk.calls("/meta")
    desk.clock.now_s += 301
    answers = await asyncio.gather(client.file(ATLAS), client.nodes(ATLAS, ["1:1"]), client.styles(ATLAS))
    assert {answer.source for answer in answers} == {"revalidated"}
    assert (await client.file(ATLAS)).source == "hit"
    assert (desk.calls(ATLAS), desk.calls("/nodes"), desk.calls("/styles")) == (1, 1, 1)
    assert desk.calls("/meta") - probes == 1


async def test_an_edit_is_seen_after_five_minutes_at_the_latest(desk: Desk) -> None:
    """The version has changed, so the file is fetched again; what did not change keeps its hash."""
    client = await desk.client()
    button, badge = await client.node(ATLAS, "1:1"), await client.node(ATLAS, "1:40")
    desk.figma.edit(ATLAS, "1:1", text="Send")
    assert (await client.node(ATLAS, "1:1")).content_hash == button.content_hash
    desk.clock.now_s += 301
    assert (await client.node(ATLAS, "1:1")).content_hash != button.content_hash
    assert (await client.node(ATLAS, "1:40")).content_hash == badge.content_hash
    assert desk.calls(ATLAS) == 2


async def test_what_is_asked_decides_what_is_answered(desk: Desk) -> None:
    """Ids, depth, version, geometry and the token have entries of their own; the spelling of ids has not."""
    client, other = await desk.client(), await desk.client(token="another")
    asked: list[dict[str, Any]] = [{}, {"ids": ["1:1"]}, {"depth": 1}, {"version": "17"}, {"geometry": "paths"}]
    for arguments in asked:
        assert (await client.file(ATLAS, **arguments)).source == "miss"
        assert (await client.file(ATLAS, **arguments)).source == "hit"
    assert (await other.file(ATLAS)).source == "miss"
    assert (await client.nodes(ATLAS, ["1:1", "1:40"])).source == "miss"
    assert (await client.nodes(ATLAS, ["1-40", "1:1", "1:1"])).source == "hit"


async def test_one_token_does_not_read_what_another_fetched(desk: Desk) -> None:
    """Over the same store, a token that Figma refuses gets nothing."""
    forge = Forge(Settings(**SILENT))
    allowed, refused = await desk.client(forge), await desk.client(forge, token="wrong")
    await allowed.node(ATLAS, "1:1")
    with pytest.raises(ServiceUnavailable):
        await refused.node(ATLAS, "1:1")


async def test_a_pinned_version_is_never_asked_for_again(desk: Desk) -> None:
    """It cannot change."""
    client = await desk.client()
    await client.file(ATLAS, version="17")
    desk.clock.now_s += 24 * 3600
    assert (await client.file(ATLAS, version="17")).source == "hit"
    assert desk.calls("/meta") == 0


async def test_images_are_kept_until_the_file_changes(desk: Desk) -> None:
    """Their answer tells no version, so it is asked for."""
    client = await desk.client()
    first = await client.images(ATLAS, ["1:1", "9:99"])
    assert first.body["images"]["9:99"] is None
    assert (await client.images(ATLAS, ["1:1", "9:99"])).source == "hit"
    desk.figma.edit(ATLAS, "1:1", text="Send")
    desk.clock.now_s += 301
    assert (await client.images(ATLAS, ["1:1", "9:99"])).body != first.body


async def test_invalidation_fetches_anew_and_a_touch_asks(desk: Desk) -> None:
    """By hand everything goes; a touched file is only asked for its version."""
    client = await desk.client()
    await client.file(ATLAS)
    await client.touch(ATLAS)
    assert (await client.file(ATLAS)).source == "revalidated"
    await client.invalidate(ATLAS)
    answer = await client.file(ATLAS)
    assert (answer.source, answer.reason) == ("miss", "epoch")
    assert (await client.file(ATLAS)).source == "hit"


async def test_who_asks_after_an_invalidation_does_not_join_a_fetch_from_before(desk: Desk) -> None:
    """The fetch that was under way may have read the old design, and is not kept either."""
    client = await desk.client()
    desk.contract.gate.clear()
    early = asyncio.create_task(client.file(ATLAS))
    await desk.until_asked(1)
    await client.invalidate(ATLAS)
    late = asyncio.create_task(client.file(ATLAS))
    await desk.until_asked(2)
    desk.contract.gate.set()
    assert [answer.source for answer in await asyncio.gather(early, late)] == ["miss", "miss"]


@pytest.mark.parametrize("fault", [Refuse(), Garbage(), HttpAnswer.unauthorized(), HttpAnswer.unavailable()])
async def test_when_figma_fails_what_is_kept_is_answered_with_its_age(desk: Desk, fault: Any) -> None:
    """Stale, with the seconds since it was known to be so; and an error where nothing is kept."""
    client = await desk.client()
    fresh = await client.node(ATLAS, "1:1")
    desk.clock.now_s += 400
    async with desk.proxy.fault(fault):
        stale = await client.node(ATLAS, "1:1")
        with pytest.raises(ServiceUnavailable, match="not available; try again"):
            await client.node(HARBOR, "1:1")
    assert (stale.is_stale, stale.age_s, stale.document) == (True, 400.0, fresh.document)


async def test_a_silent_figma_costs_its_budget_and_no_more(desk: Desk) -> None:
    """Two seconds for probe, fetch and all attempts together, then what is kept."""
    client = await desk.client(Forge(Settings(**SILENT)))
    await client.node(ATLAS, "1:1")
    desk.clock.now_s += 400
    loop = asyncio.get_running_loop()
    async with desk.proxy.fault(Silent()):
        started_s = loop.time()
        assert (await client.node(ATLAS, "1:1")).is_stale
        # Not a measurement: without the budget it would be the transport's two seconds several times over.
        assert loop.time() - started_s < 3.5


async def test_a_silence_is_noticed_once(desk: Desk) -> None:
    """After a first call has waited in vain the others on their way go on, and later ones do not wait at all."""
    forge = Forge(Settings(**SILENT))
    client = await desk.client(forge)
    files = ATLAS, HARBOR
    for file_key in files:
        await client.file(file_key)
    desk.clock.now_s += 400

    def waited_in_vain() -> int:
        return next(guard["failures"] for guard in forge.operations.breakers() if guard["name"] == "figma")

    async with desk.proxy.fault(Silent()):
        first = asyncio.create_task(client.file(ATLAS))
        # Most of the two seconds that the first one waits, so that it is far from having waited as long itself.
        await asyncio.sleep(1.5)
        others = [await first, await client.file(HARBOR), await client.file(ATLAS), await client.file(HARBOR)]
        assert ([other.source for other in others], waited_in_vain()) == (["stale"] * 4, 1)
    # It is asked all the same, so that its return is noticed.
    async with asyncio.timeout(60):
        while (await client.file(ATLAS)).source == "stale":
            await asyncio.sleep(0.05)


async def test_who_is_on_the_way_when_a_silence_is_noticed_goes_on(desk: Desk) -> None:
    """It does not wait for its own two seconds to end."""
    forge = Forge(Settings(**SILENT))
    client = await desk.client(forge)
    for file_key in (ATLAS, HARBOR):
        await client.file(file_key)
    desk.clock.now_s += 400
    async with desk.proxy.fault(Silent()):
        first = asyncio.create_task(client.file(ATLAS))
        await asyncio.sleep(1.5)
        second = asyncio.create_task(client.file(HARBOR))
        assert (await first).source == "stale"
        assert (await second).source == "stale"
        assert [guard["failures"] for guard in forge.operations.breakers() if guard["name"] == "figma"] == [1]


async def test_nobody_asks_while_figma_wants_to_be_left_alone(desk: Desk) -> None:
    """A pause of days is remembered for all files of the tier; what is kept is answered, cheap calls go on."""
    client = await desk.client()
    await client.file(ATLAS)
    async with desk.proxy.fault(HttpAnswer.too_many_requests(retry_after_s=396_749)):
        with pytest.raises(ServiceUnavailable) as refused:
            await client.file(HARBOR)
    assert refused.value.retry_after_s is not None
    before = desk.calls()
    desk.figma.edit(ATLAS, "1:1", text="Send")
    desk.clock.now_s += 3600
    assert (await client.file(ATLAS)).source == "stale"
    assert (desk.calls() - before, desk.calls("/meta")) == (1, 1)
    desk.clock.now_s += 396_749
    assert (await client.file(ATLAS)).source == "miss"


async def test_a_pause_is_shared_by_workers(desk: Desk, fresh_redis: str) -> None:
    """What one worker was told holds for the other, as does what it fetched."""
    settings = Settings(cache_url=fresh_redis, cache_secret="a secret of sixteen", **SILENT)
    async with Forge(settings) as one, Forge(settings) as two:
        first, second = await desk.client(one), await desk.client(two)
        await first.file(ATLAS)
        assert (await second.file(ATLAS)).source == "hit"
        await first.invalidate(ATLAS)
        assert (await second.file(ATLAS)).reason == "epoch"
        async with desk.proxy.fault(HttpAnswer.too_many_requests(retry_after_s=60)):
            with pytest.raises(ServiceUnavailable):
                await first.file(HARBOR)
        before = desk.calls()
        with pytest.raises(ServiceUnavailable, match="try again in"):
            await second.file(HARBOR)
        assert desk.calls() == before


async def test_without_the_shared_store_each_worker_has_its_own_copy(desk: Desk, redis_server: Any) -> None:
    """Redis is gone: what this process has seen is still known, and not fetched at each request."""
    settings = Settings(cache_url=redis_server.url, **SILENT)
    async with Forge(settings) as forge:
        client = await desk.client(forge)
        await client.file(ATLAS)
        await asyncio.to_thread(redis_server.kill)
        assert (await client.file(ATLAS)).source == "hit"
        await client.file(HARBOR)
        assert (await client.file(HARBOR)).source == "hit"
    assert (desk.calls(ATLAS), desk.calls(HARBOR)) == (1, 1)


@pytest.mark.parametrize(("file_key", "error"), [("unknown", NotFound), ("../../etc", BadRequest), ("", BadRequest)])
async def test_what_is_not_there_is_remembered_for_seconds(desk: Desk, file_key: str, error: type[Exception]) -> None:
    """An unknown file is asked for once, and again after ten seconds; a key that is none is not asked for."""
    client = await desk.client(negative_s=0.2)
    for _ in range(3):
        with pytest.raises(error):
            await client.file(file_key)
    assert desk.calls() == (error is NotFound)


async def test_a_file_that_was_closed_is_not_shown_when_figma_is_down(desk: Desk) -> None:
    """403 ends what is kept, also for later outages."""
    client = await desk.client(negative_s=0.01)
    await client.file(ATLAS)
    desk.clock.now_s += 400
    body = b'{"status":403,"err":"Not allowed"}'
    async with desk.proxy.fault(HttpAnswer(status=403, body=body)):
        with pytest.raises(NotFound, match="may not see"):
            await client.file(ATLAS)
    async with desk.proxy.fault(Refuse()), asyncio.timeout(5):
        raised: Exception | None = None
        while not isinstance(raised, ServiceUnavailable):
            # NotFound for as long as that is remembered.
            with pytest.raises((NotFound, ServiceUnavailable)) as caught:
                await client.file(ATLAS)
            raised = caught.value
            await asyncio.sleep(0.01)


async def test_a_token_that_may_not_probe_fetches(desk: Desk) -> None:
    """A file is fetched every five minutes, and tells the version that everything else is checked by."""
    desk.contract.closed.add("/meta")
    client = await desk.client()
    answers = []
    for seconds in (0, 1, 301, 1):
        desk.clock.now_s += seconds
        answers.append(((await client.file(ATLAS)).source, (await client.styles(ATLAS)).source))
    assert answers == [("miss", "miss"), ("hit", "hit"), ("miss", "hit"), ("hit", "hit")]


async def test_a_caller_who_leaves_does_not_end_the_call_for_the_others(desk: Desk) -> None:
    """Nor does the time limit of whoever came first."""
    client = await desk.client()

    async def hurried() -> FigmaResponse:
        with deadline(0.001):
            return await client.file(ATLAS)

    first, second = asyncio.create_task(hurried()), asyncio.create_task(client.file(ATLAS))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).source == "miss"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert desk.calls() == 1


@pytest.mark.parametrize("ids", [[], [""], ["1:1", "x"], ["1:1,2:2"], ["1"] * 3, [f"1:{n}" for n in range(201)]])
async def test_what_cannot_be_ids_is_refused(desk: Desk, ids: list[str]) -> None:
    """Before anything is sent."""
    with pytest.raises(BadRequest):
        await (await desk.client()).nodes(ATLAS, ids)
    assert desk.calls() == 0


@pytest.mark.parametrize(
    ("base_url", "token"), [("http://figma.example", "t"), ("ftp://x", "t"), ("https://x", ""), ("https://x", "a\nb")]
)
def test_a_token_is_not_sent_in_the_open(base_url: str, token: str) -> None:
    """Plain HTTP is for this machine only; the message does not repeat the token."""
    with pytest.raises(ConfigurationError):
        FigmaClient.of(Forge(Settings(**SILENT)), token=token, base_url=base_url)
