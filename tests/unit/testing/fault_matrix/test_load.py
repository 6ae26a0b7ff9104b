"""The open-loop load and its results."""

import asyncio
import json
import math
import time

import httpx

from forge_otel.testing.fault_matrix.load import Load, percentile


async def test_requests_are_sent_while_the_service_hangs() -> None:
    """The rate does not depend on responses, and latencies count from the moment at which a request was due."""
    released = asyncio.Event()

    async def send(_number: int) -> httpx.Response:
        await released.wait()
        return httpx.Response(200)

    async with Load(send, rate_per_s=200) as load:
        began_s = time.monotonic()
        while time.monotonic() - began_s < 0.3:
            await asyncio.sleep(0.01)
        released.set()
    assert len(load.results) >= 30
    assert max(result.latency_s for result in load.results) >= 0.3
    assert all(result.is_success for result in load.results)


async def test_each_result_says_how_its_request_ended() -> None:
    """A clear refusal, an unclear error, a success, an invalid response and a closed port are distinguished."""
    responses = [
        httpx.Response(503, headers={"Retry-After": "7"}, json={"code": "circuit_open"}),
        httpx.Response(500, content=b"<html>"),
        httpx.Response(200, json=["whole"]),
        httpx.Response(200, content=b'["cut'),
    ]

    async def send(number: int) -> httpx.Response:
        if number >= len(responses):
            raise httpx.ConnectError("the port is closed")
        return responses[number]

    async with Load(send, rate_per_s=100, extract=lambda response: json.loads(response.content)) as load:
        while len(load.results) <= len(responses):
            await asyncio.sleep(0.01)
    found = [(one.status, one.code, one.retry_after_s, one.extracted) for one in load.results[:5]]
    assert found == [
        (503, "circuit_open", 7.0, None),
        (500, "", None, None),
        (200, "", None, ["whole"]),
        (0, "JSONDecodeError", None, None),
        (0, "ConnectError", None, None),
    ]
    assert [one.is_clear_refusal for one in load.results[:2]] == [True, False]


def test_percentiles_are_measured_values() -> None:
    """The smallest value that covers the fraction; NaN without values."""
    assert [percentile(range(1, 101), fraction) for fraction in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert math.isnan(percentile([], 0.5))
