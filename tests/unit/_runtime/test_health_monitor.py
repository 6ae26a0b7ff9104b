"""Background pings and their results."""

import asyncio
from typing import Any

import pytest

from forge_otel._runtime.health_monitor import HealthMonitor, Probe, check_critical
from forge_otel.errors import ConfigurationError


class Service:
    """A service that can be switched off, or hang."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.hangs = False
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


def _monitor(service: Service, *, critical: bool = False, interval_s: float = 0.01) -> HealthMonitor:
    probe = Probe(name="redis", ping=service.ping, critical=critical, without_it="answers are not cached")
    return HealthMonitor([probe], interval_s=interval_s, timeout_s=0.05)


async def _check_after(monitor: HealthMonitor, status: str) -> Any:
    async with asyncio.timeout(5):
        while (check := monitor.report()["checks"]["redis:responseTime"][0])["status"] != status or "time" not in check:
            await asyncio.sleep(0.005)
    return check


async def test_an_optional_service_that_is_down_is_a_warning() -> None:
    """The report has the type of the error, never its message, and the effect for users."""
    async with _monitor(Service(ConnectionRefusedError("redis://:hunter2@h"))) as monitor:
        check = await _check_after(monitor, "warn")
        assert (monitor.status(), monitor.ready()) == ("warn", True)
    assert (check["output"], check["withoutIt"]) == ("ConnectionRefusedError", "answers are not cached")
    assert "lastSuccessAgeSeconds" not in check


async def test_a_critical_service_that_is_down_is_a_failure_until_it_recovers() -> None:
    """Recovery is noticed by the next ping."""
    service = Service(OSError())
    async with _monitor(service, critical=True) as monitor:
        assert (monitor.ready(), monitor.status()) == (False, "fail")
        await _check_after(monitor, "fail")
        service.error = None
        check = await _check_after(monitor, "pass")
        assert monitor.ready()
    assert check["observedUnit"] == "ms"


async def test_a_ping_that_hangs_times_out() -> None:
    """Other pings and the report do not wait for it."""
    service = Service()
    service.hangs = True
    async with _monitor(service) as monitor:
        assert (await _check_after(monitor, "warn"))["output"] == "TimeoutError"


class Panic(BaseException):
    """As a Rust extension raises it."""


async def test_a_panic_is_an_error_like_any_other() -> None:
    """The last good result must not stay."""
    service = Service()
    async with _monitor(service) as monitor:
        await _check_after(monitor, "pass")
        service.error = Panic()
        assert (await _check_after(monitor, "warn"))["output"] == "Panic"


async def test_closing_ends_the_pings() -> None:
    """None is sent afterwards."""
    service = Service()
    async with _monitor(service) as monitor:
        await _check_after(monitor, "pass")
    pings = service.pings
    await asyncio.sleep(0.05)
    assert service.pings == pings


def test_an_unknown_critical_service_is_rejected() -> None:
    """Pinged and guarded services are known; every other name is listed."""
    probes = [Probe(name="redis", ping=Service().ping)]
    check_critical(("redis", "openai"), probes, {"openai"})
    with pytest.raises(ConfigurationError, match="'reddis'") as caught:
        check_critical(("reddis", "archive", "openai"), probes, {"openai"})
    assert len(caught.value.faults) == 2
