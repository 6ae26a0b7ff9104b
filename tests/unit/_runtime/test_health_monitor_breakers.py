"""A health check ends the open time of the breakers of its service."""

import asyncio
from collections.abc import Callable

from forge_otel._runtime.health_monitor import HealthMonitor, Probe
from forge_otel.resilience.guard import Guards
from forge_otel.resilience.policies import Policies
from forge_otel.resilience.retry import RetryOptions

DOWN = ConnectionError("down")
ONCE = dict.fromkeys(("svc", "svc2", "svc:reads"), Policies(retry=RetryOptions(attempts=1)))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


class Service:
    """A service that can be down for calls and for pings."""

    def __init__(self) -> None:
        self.is_down = False
        self.refuses_calls = False
        self.pings = 0

    async def ping(self) -> None:
        """Raise while it is down."""
        self.pings += 1
        if self.is_down:
            raise DOWN

    async def call(self) -> None:
        """Raise while it is down, or refuses calls only."""
        if self.is_down or self.refuses_calls:
            raise DOWN


async def fail(guards: Guards, service: Service, name: str, times: int = 5) -> None:
    """Call the service several times."""
    for _ in range(times):
        await asyncio.gather(guards.get(name).call(service.call), return_exceptions=True)


async def test_an_opening_breaker_has_its_service_pinged_and_recovers_with_it() -> None:
    """No interval passes, and the breaker's own open time, 2 s for a cache and a minute for others, does not either."""
    service, guards = Service(), Guards(policies=ONCE)
    async with HealthMonitor([Probe(name="svc", ping=service.ping)], interval_s=60, guards=guards):
        await until(lambda: service.pings == 1)
        service.is_down = True
        await fail(guards, service, "svc:reads")
        await until(lambda: service.pings >= 2)
        assert guards.get("svc:reads").admission.rejects_for_s() > 10
        service.is_down = False
        await until(lambda: guards.get("svc:reads").admission.rejects_for_s() == 0)
        await guards.get("svc:reads").call(service.call)
        assert guards.get("svc:reads").admission.state().state == "closed"


async def test_a_service_whose_pings_succeed_while_its_calls_fail_keeps_its_backoff() -> None:
    """A full Redis answers pings; each of them would otherwise admit a call."""
    service, guards = Service(), Guards(policies=ONCE)
    admission = guards.get("svc").admission
    async with HealthMonitor([Probe(name="svc", ping=service.ping)], interval_s=0.01, guards=guards):
        service.refuses_calls = True
        await fail(guards, service, "svc")
        await until(lambda: admission.rejects_for_s() == 0)
        await fail(guards, service, "svc", times=1)
        before = service.pings
        await until(lambda: service.pings > before + 5)
        assert admission.rejects_for_s() > 10


async def test_another_service_and_a_forced_breaker_are_left_alone() -> None:
    """`svc` is not `svc2`, and an operator's word stands."""
    service, guards = Service(), Guards(policies=ONCE)
    async with HealthMonitor([Probe(name="svc", ping=service.ping)], interval_s=0.01, guards=guards):
        service.refuses_calls = True
        await fail(guards, service, "svc2")
        guards.get("svc").admission.set_mode("forced_open")
        await until(lambda: service.pings > 3)
        assert guards.get("svc2").admission.rejects_for_s() > 10
        assert guards.get("svc").admission.rejects_for_s() > 10
