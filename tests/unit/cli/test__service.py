"""Requests of the commands to the admin API."""

import asyncio

import pytest

from forge_otel import Forge
from forge_otel.cli._service import request_json
from forge_otel.errors import ConfigurationError, ServiceUnavailable


async def test_the_response_is_parsed(service: tuple[Forge, str]) -> None:
    """The token of the environment is sent, and JSON is returned."""
    found = await asyncio.to_thread(request_json, service[1], "/forge/api/breakers")

    assert [guard["name"] for guard in found] == ["openai"]


async def test_a_wrong_token_is_an_error(service: tuple[Forge, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error response becomes an exception with its text, not a stack trace."""
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", "wrong-token-of-the-tests")
    with pytest.raises(ServiceUnavailable):
        await asyncio.to_thread(request_json, service[1], "/forge/api/breakers")


def test_the_token_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token no request is made."""
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", "")
    with pytest.raises(ConfigurationError, match="FORGE_ADMIN_TOKEN is not set"):
        request_json("http://127.0.0.1:1", "/")


def test_only_http_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `file://` URL would read a local file."""
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", "a-token-of-the-tests")
    with pytest.raises(ConfigurationError, match="http"):
        request_json("file:///etc/passwd", "")


def test_an_unreachable_service_is_an_error(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """The message names the URL."""
    monkeypatch.setenv("FORGE_ADMIN_TOKEN", "a-token-of-the-tests")
    with pytest.raises(ServiceUnavailable, match=f"no response from http://127.0.0.1:{unused_tcp_port}"):
        request_json(f"http://127.0.0.1:{unused_tcp_port}", "/")
