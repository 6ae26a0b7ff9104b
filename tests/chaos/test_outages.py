"""Several faults at once: total outages, combined outages, and shutdown during them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.injections import INJECTIONS, locked
from tests.chaos.service import ADMIN_TOKEN, OPENAI_TOTAL_S
from tests.chaos.site import LOOPBACK, Site, answered, until
from tests.unit.sinks.builders import ListSink, record

from componentforge.llm import LanguageModel, Message
from componentforge.settings import ServiceSettings
from forge_otel import Forge, Settings
from forge_otel.errors import ServiceUnavailable
from forge_otel.outbox.outbox import Outbox, OutboxOptions
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
    """Yield the service's client of a model that returns 503 to every request."""
    forge = Forge(Settings(archive_url=None, database_url=None, outbox_dir=f"{tmp_path}/outbox"))
    # The proxy itself responds, so there is no server behind it.
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


async def call_often(model: LanguageModel) -> Sequence[BaseException | str]:
    """Call the model 1,000 times, 50 calls at once."""
    answers: list[BaseException | str] = []
    for _ in range(CALLS // AT_ONCE):
        answers += await asyncio.gather(*(model.ask_json(QUESTION) for _ in range(AT_ONCE)), return_exceptions=True)
    return answers


@pytest.mark.slow
# Not in shadow mode with a fallback model, which is configured to send a second request.
@pytest.mark.parametrize(("mode", "other_model"), [("auto", None), ("auto", "another-model"), ("shadow", None)])
async def test_retries_do_not_amplify_an_outage(tmp_path: Path, mode: Any, other_model: str | None) -> None:
    """1,000 calls to a failing provider send at most 1,200 requests, also if no breaker is open."""
    async with model_down(tmp_path, other_model=other_model) as (forge, model, proxy):
        forge.operations.set_breaker("openai", mode)
        answers = await call_often(model)
        requests = proxy.traffic.requests
    assert {type(answer) for answer in answers} == {ServiceUnavailable}
    assert all(answer.retry_after_s for answer in answers if isinstance(answer, ServiceUnavailable))
    assert 0 < requests <= MOST_REQUESTS


async def test_nested_retries_do_not_multiply(tmp_path: Path) -> None:
    """A guard around the service's own guard sends three requests, not nine, and the client retries none."""
    async with model_down(tmp_path) as (_, model, proxy):
        with pytest.raises(ServiceUnavailable):
            await Guard("agent").call(model.ask_json, QUESTION)
        assert proxy.traffic.requests <= 3


def everything(site: Site) -> AbstractAsyncContextManager[Any]:
    """Make every dependency fail at once, each in its own way."""
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
    """Inject several faults at once."""
    async with AsyncExitStack() as stack:
        for fault in faults:
            await stack.enter_async_context(INJECTIONS[fault](site))
        yield


@pytest.mark.slow
async def test_without_cache_and_database_requests_succeed(site: Site) -> None:
    """Components are generated, records wait on disk, and health warns of both."""
    async with together(site, ("Redis", "silent"), ("SQLite", "full")):
        responses = [await site.request_known(number) for number in range(20)]
        assert {response.status_code for response in responses} == {200}
        assert {answered(response).source for response in responses} == {"L4"}
        await until(lambda: warns(site, "redis:breaker", "database:waiting"), timeout_s=SOON_S)
    await until(site.recovery(), timeout_s=SOON_S, poll_s=0.2)
    labels = {label for found in site.stored().values() for label in found}
    assert {"redis:uncached", "database:outbox"} <= labels
    assert {answered(response).generation_id for response in responses} <= site.stored().keys()


@pytest.mark.slow
async def test_without_cache_and_model_the_refusal_is_clear(site: Site) -> None:
    """Requests get a 503 with Retry-After in time, and the service recovers afterwards."""
    async with together(site, ("Redis", "silent"), ("OpenAI", "refused")):
        await check_refusals(site)
        await until(lambda: warns(site, "redis:breaker", "openai:breaker"), timeout_s=SOON_S)
    await until(site.recovery(), timeout_s=SOON_S, poll_s=0.2)


@pytest.mark.slow
async def test_without_any_dependency_the_service_warns_and_recovers(site: Site) -> None:
    """It stays alive and ready, refuses clearly, names every outage, loses no record and recovers."""
    async with everything(site):
        await check_refusals(site)
        await until(
            lambda: warns(site, "openai:breaker", "redis:breaker", "database:waiting", "outbox:journal"),
            timeout_s=SOON_S,
        )
        statuses = {path: (await site.client.get(path)).status_code for path in ("/livez", "/readyz", "/metrics")}
        assert set(statuses.values()) == {200}
        health = await site.client.get("/health", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
        assert (health.status_code, health.json()["status"]) == (200, "warn")
        sinks = (await site.observe()).sinks
    assert all(totals.is_balanced and not totals.dropped for totals in sinks.values())
    await until(site.recovery(), timeout_s=2 * SOON_S, poll_s=0.2)


async def warns(site: Site, *checks: str) -> bool:
    """Return whether health warns of all of these checks."""
    return set(checks) <= (await site.observe()).warnings


async def check_refusals(site: Site) -> None:
    """Send enough requests for breakers to open; each gets a clear 503 in time."""
    for number in range(10):
        async with asyncio.timeout(OPENAI_TOTAL_S + 1):
            response = await site.request_known(number)
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["code"] in {"service_unavailable", "circuit_open"}


EXITS: dict[str, Callable[[Site], AbstractAsyncContextManager[Any]]] = {
    "silent Redis": INJECTIONS["Redis", "silent"],
    "silent model": INJECTIONS["OpenAI", "silent"],
    "locked database": lambda site: locked(site.database),
    "dead outbox disk": lambda site: locked(site.journal),
    "full disk": INJECTIONS["outbox disk", "full"],
    "everything": everything,
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", EXITS)
async def test_shutdown_takes_at_most_five_seconds(site: Site, fault: str) -> None:
    """During each outage, and with calls in flight to the failing dependency."""
    async with EXITS[fault](site):
        requests_in_flight = [asyncio.create_task(site.request_new()) for _ in range(4)]
        requests_in_flight += [asyncio.create_task(site.request_known(number)) for number in range(4)]
        await until(lambda: in_flight(site, 1), timeout_s=SOON_S)
        took_s = await site.stop()
        await asyncio.gather(*requests_in_flight, return_exceptions=True)
    assert took_s <= STOP_WITHIN_S, site.log()[-2_000:]


async def in_flight(site: Site, count: int) -> bool:
    """Return whether the service handles more than `count` requests; one of them is for the metrics page."""
    page = (await site.client.get("/metrics")).text
    found = [float(line.split()[-1]) for line in page.splitlines() if line.startswith("http_server_active_requests")]
    return sum(found) > count


async def test_a_hung_disk_delays_the_first_callers_only(tmp_path: Path) -> None:
    """After one caller has waited for a second, no caller waits until the disk responds; no record is lost."""
    sink = ListSink()
    offered = [record() for _ in range(20)]
    async with Outbox([sink], OutboxOptions(directory=tmp_path, max_bytes=2**26, shutdown_timeout_s=5)) as box:
        (journal,) = tmp_path.glob("*.journal")
        async with locked(journal):
            await box.offer(offered[0])
            # Less for 19 records together than for the first one.
            async with asyncio.timeout(0.5):
                for item in offered[1:]:
                    await box.offer(item)
        assert await box.drain(timeout_s=SOON_S)
    assert [item.id for item in sink.records] == [item.id for item in offered]
