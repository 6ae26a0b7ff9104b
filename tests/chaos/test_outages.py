"""More than one thing at once: total outages, several helpers down together, and the exit in the middle of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.injections import INJECTIONS, locked
from tests.chaos.service import ADMIN_TOKEN, OPENAI_TOTAL_S
from tests.chaos.site import LOOPBACK, Site, kept, until
from tests.unit.sinks.builders import ListSink, record

from componentforge.llm import LanguageModel, Message
from componentforge.settings import ServiceSettings
from forge_otel import Forge, Settings
from forge_otel.errors import ServiceUnavailable
from forge_otel.outbox.outbox import Outbox
from forge_otel.resilience.guard import Guard
from forge_otel.testing.faults.proxy import FaultProxy, HttpAnswer

pytestmark = pytest.mark.faults

CALLS = 1_000
MOST_REQUESTS = 1_200
AT_ONCE = 50
STOP_WITHIN_S = 5.0
SOON_S = 10.0
QUESTION = Message(role="user", content="Anything.")


@asynccontextmanager
async def model_down(
    tmp_path: Path, *, other_model: str | None = None
) -> AsyncIterator[tuple[Forge, LanguageModel, FaultProxy]]:
    """The service's client of a model that answers everything with 503, as the service configures it."""
    forge = Forge(Settings(archive_url=None, database_url=None, outbox_dir=f"{tmp_path}/outbox"))
    # The proxy answers by itself, so that nobody has to be behind it.
    async with forge, FaultProxy(LOOPBACK, 1) as proxy, proxy.fault(HttpAnswer.unavailable()):
        settings = ServiceSettings(
            figma_url="http://figma.invalid",
            figma_token="stand-in",
            openai_url=f"http://{LOOPBACK}:{proxy.port}/v1",
            openai_key="offline",
            openai_fallback_model=other_model,
        )
        async with LanguageModel(settings, guard=forge.guard("openai")) as model:
            yield forge, model, proxy


async def ask_often(model: LanguageModel) -> Sequence[BaseException | str]:
    """Ask a thousand times, fifty at once."""
    answers: list[BaseException | str] = []
    for _ in range(CALLS // AT_ONCE):
        answers += await asyncio.gather(*(model.ask_json(QUESTION) for _ in range(AT_ONCE)), return_exceptions=True)
    return answers


@pytest.mark.slow
# Not without a breaker and with a second model: that is a second request, because the configuration says so.
@pytest.mark.parametrize(("mode", "other_model"), [("auto", None), ("auto", "another-model"), ("shadow", None)])
async def test_an_outage_is_not_made_worse(tmp_path: Path, mode: Any, other_model: str | None) -> None:
    """A thousand calls into a dead provider send it 1 200 requests at most, also if no breaker stops them."""
    async with model_down(tmp_path, other_model=other_model) as (forge, model, proxy):
        forge.operations.set_breaker("openai", mode)
        answers = await ask_often(model)
        requests = proxy.traffic.requests
    assert {type(answer) for answer in answers} == {ServiceUnavailable}
    assert all(answer.retry_after_s for answer in answers if isinstance(answer, ServiceUnavailable))
    assert 0 < requests <= MOST_REQUESTS


async def test_two_layers_of_retries_do_not_multiply(tmp_path: Path) -> None:
    """A guard around the service's own guard: three requests, not nine, and none of the client's own."""
    async with model_down(tmp_path) as (_, model, proxy):
        with pytest.raises(ServiceUnavailable):
            await Guard("agent").call(model.ask_json, QUESTION)
        assert proxy.traffic.requests <= 3


def everything(site: Site) -> AbstractAsyncContextManager[Any]:
    """Every helper fails at once, each in its own way."""
    return together(
        site,
        ("OpenAI", "refused"),
        ("Redis", "silent"),
        ("SQLite", "silent"),
        ("outbox disk", "full"),
        ("SQLite", "full"),
    )


@asynccontextmanager
async def together(site: Site, *faults: tuple[str, str]) -> AsyncIterator[None]:
    """Several faults at once."""
    async with AsyncExitStack() as stack:
        for fault in faults:
            await stack.enter_async_context(INJECTIONS[fault](site))
        yield


async def troubled(site: Site) -> set[str]:
    """Return what health warns of."""
    return set((await site.observe()).signs)


@pytest.mark.slow
async def test_without_cache_and_database_everything_is_answered(site: Site) -> None:
    """Components are generated anew, records wait on disk, and both are said."""
    async with together(site, ("Redis", "silent"), ("SQLite", "full")):
        answers = [await site.ask_known(number) for number in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert {kept(answer).source for answer in answers} == {"L4"}
        await until(lambda: sees(site, "redis:breaker", "database:waiting"), timeout_s=SOON_S)
    await until(site.recovery(), timeout_s=SOON_S, poll_s=0.2)
    labels = {label for found in site.stored().values() for label in found}
    assert {"redis:uncached", "database:outbox"} <= labels
    assert {kept(answer).generation_id for answer in answers} <= site.stored().keys()


@pytest.mark.slow
async def test_without_cache_and_model_the_refusal_is_clear(site: Site) -> None:
    """Nothing can be answered: a 503 in time that says when to come back, and then all is well again."""
    async with together(site, ("Redis", "silent"), ("OpenAI", "refused")):
        await refuses_clearly(site)
        await until(lambda: sees(site, "redis:breaker", "openai:breaker"), timeout_s=SOON_S)
    await until(site.recovery(), timeout_s=SOON_S, poll_s=0.2)


@pytest.mark.slow
async def test_without_any_helper_the_service_says_so(site: Site) -> None:
    """It lives, is ready, refuses clearly, names everything that is away, loses nothing, and comes back by itself."""
    async with everything(site):
        await refuses_clearly(site)
        await until(
            lambda: sees(site, "openai:breaker", "redis:breaker", "database:waiting", "outbox:journal"),
            timeout_s=SOON_S,
        )
        statuses = {path: (await site.client.get(path)).status_code for path in ("/livez", "/readyz", "/metrics")}
        assert set(statuses.values()) == {200}
        health = await site.client.get("/health", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
        assert (health.status_code, health.json()["status"]) == (200, "warn")
        books = (await site.observe()).tallies
    assert all(tally.is_balanced and not tally.dropped for tally in books.values())
    await until(site.recovery(), timeout_s=2 * SOON_S, poll_s=0.2)


async def sees(site: Site, *signs: str) -> bool:
    """Whether health warns of all of these."""
    return set(signs) <= await troubled(site)


async def refuses_clearly(site: Site) -> None:
    """Ask often enough for breakers to open; every answer is a clear 503 in time."""
    for number in range(10):
        async with asyncio.timeout(OPENAI_TOTAL_S + 1):
            answer = await site.ask_known(number)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["code"] in {"service_unavailable", "circuit_open"}


EXITS: dict[str, Callable[[Site], AbstractAsyncContextManager[Any]]] = {
    "silent Redis": INJECTIONS["Redis", "silent"],
    "silent model": INJECTIONS["OpenAI", "silent"],
    "locked database": lambda site: locked(site.database),
    "dead outbox disk": lambda site: locked(site.journal),
    "full disk": INJECTIONS["outbox disk", "full"],
    "everything": everything,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", EXITS)
async def test_the_exit_takes_five_seconds_at_most(site: Site, what: str) -> None:
    """Whatever is down, and with calls in flight to what is down."""
    async with EXITS[what](site):
        asking = [asyncio.create_task(site.ask_fresh()) for _ in range(4)]
        asking += [asyncio.create_task(site.ask_known(number)) for number in range(4)]
        await until(lambda: in_flight(site, 1), timeout_s=SOON_S)
        took_s = await site.stop()
        await asyncio.gather(*asking, return_exceptions=True)
    assert took_s <= STOP_WITHIN_S, site.log()[-2_000:]


async def in_flight(site: Site, count: int) -> bool:
    """Whether the service has at least so many requests that it has not answered; one of them is for the page."""
    page = (await site.client.get("/metrics")).text
    found = [float(line.split()[-1]) for line in page.splitlines() if line.startswith("http_server_active_requests")]
    return sum(found) > count


async def test_a_hanging_disk_holds_up_the_first_callers_only(tmp_path: Path) -> None:
    """After the first has waited a second in vain, nobody waits until the disk is back; and nothing is lost."""
    sink = ListSink()
    offered = [record() for _ in range(20)]
    async with Outbox([sink], directory=tmp_path, max_bytes=2**26, shutdown_timeout_s=5) as box:
        (journal,) = tmp_path.glob("*.journal")
        async with locked(journal):
            await box.offer(offered[0])
            # As long again for all the others together as for the first alone would be a fault.
            async with asyncio.timeout(0.5):
                for item in offered[1:]:
                    await box.offer(item)
        assert await box.drain(timeout_s=SOON_S)
    assert [item.id for item in sink.records] == [item.id for item in offered]
