"""Figma's webhooks invalidate cached responses."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.examples.samples import ATLAS
from tests.unit.figma.conftest import FigmaSite

from componentforge.serving import serve
from forge_otel.errors import ConfigurationError
from forge_otel.figma.client import FigmaClient
from forge_otel.figma.webhook import FigmaWebhook

PASSCODE = "a passcode of some length"


@pytest.fixture
async def client(site: FigmaSite) -> FigmaClient:
    """A client with a cached file."""
    made = await site.client()
    await made.file(ATLAS)
    return made


@pytest.fixture
async def hook(client: FigmaClient) -> AsyncIterator[str]:
    """URL of the receiver."""
    async with serve(FigmaWebhook(client, passcode=PASSCODE)) as url:
        yield url


async def _send(url: str, **event: Any) -> int:
    async with httpx.AsyncClient() as http:
        response = await http.post(url, json={"passcode": PASSCODE, "file_key": ATLAS} | event)
    return response.status_code


async def test_an_event_makes_an_edit_visible(site: FigmaSite, client: FigmaClient, hook: str) -> None:
    """The stand-in sends it in the format of the contract."""
    version = (await client.file(ATLAS)).body["version"]
    site.figma.edit(ATLAS, "1:1", text="Send")
    assert (await client.file(ATLAS)).body["version"] == version
    await site.figma.announce(ATLAS, url=hook, passcode=PASSCODE)
    assert (await client.file(ATLAS)).body["version"] != version


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("FILE_UPDATE", "revalidated"),
        ("FILE_VERSION_UPDATE", "revalidated"),
        ("LIBRARY_PUBLISH", "revalidated"),
        ("FILE_DELETE", "miss"),
        ("DEV_MODE_STATUS_UPDATE", "miss"),
        ("PING", "hit"),
        ("FILE_COMMENT", "hit"),
        ("SOMETHING_NEW", "hit"),
    ],
)
async def test_events_invalidate_what_they_change(client: FigmaClient, hook: str, kind: str, source: str) -> None:
    """Events with a new version cause a check of the version, others a fetch."""
    assert await _send(hook, event_type=kind) == 200
    assert (await client.file(ATLAS)).source == source


@pytest.mark.parametrize("passcode", ["", "wrong", PASSCODE + "x", "ü" * 20, None, 7])
async def test_a_wrong_passcode_changes_nothing(client: FigmaClient, hook: str, passcode: Any) -> None:
    """The event is rejected with 403."""
    assert await _send(hook, event_type="FILE_DELETE", passcode=passcode) == 403
    assert (await client.file(ATLAS)).source == "hit"


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("GET", b"", 405),
        ("POST", b"", 400),
        ("POST", b"[]", 400),
        ("POST", b"\xff\xfe", 400),
        ("POST", b"[" * 100_000, 400),
        ("POST", b"x" * (2 * 2**20 + 1), 413),
    ],
)
async def test_malformed_events_are_rejected(hook: str, method: str, body: bytes, status: int) -> None:
    """The status names the reason."""
    async with httpx.AsyncClient() as http:
        assert (await http.request(method, hook, content=body)).status_code == status


async def test_a_malformed_file_key_is_rejected(hook: str) -> None:
    """With 400, as for a caller."""
    assert await _send(hook, event_type="FILE_UPDATE", file_key="../x") == 400


async def test_a_short_passcode_is_rejected(client: FigmaClient) -> None:
    """It could be guessed."""
    with pytest.raises(ConfigurationError, match="16 characters"):
        FigmaWebhook(client, passcode="short")
