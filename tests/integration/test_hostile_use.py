"""Regression tests of faults that hostile use has revealed."""

import asyncio
import gc
import hmac
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from forge_otel import Forge, ForgeMiddleware, GenerationRequest, GenerationResult, Settings
from forge_otel._internal.frames import DamagedFrame
from forge_otel.errors import BadRequest, ConfigurationError
from forge_otel.layers.exact.entry import unseal

TOKEN = "t" * 20


def _forge(folder: Path, **changes: Any) -> Forge:
    fields: dict[str, Any] = {
        "archive_url": None,
        "database_url": f"sqlite+aiosqlite:///{folder}/forge.db",
        "outbox_dir": f"{folder}/outbox",
        "admin_token": TOKEN,
    }
    return Forge(Settings(**fields | changes))


def _request(**changes: Any) -> GenerationRequest:
    fields: dict[str, Any] = {"component_type": "button", "figma_key": "k"}
    return GenerationRequest(**fields | changes)


async def test_a_burst_of_large_answers_is_journalled_whole(tmp_path: Path) -> None:
    """Of twelve concurrent answers of 8 MB none is dropped."""
    forge = _forge(tmp_path)

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code="c", artifacts={"a.bin": os.urandom(8 * 2**20)})

    async with forge:
        await asyncio.gather(*(generate(_request(figma_key=str(number))) for number in range(12)))
        assert await forge.outbox.drain(timeout_s=60)
        stats = forge.outbox.stats().sinks["database"]
    assert (stats.delivered, stats.dropped) == (12, {})


async def test_concurrent_migrations_use_their_own_databases(tmp_path: Path) -> None:
    """Two forges that are opened concurrently in one process each have their tables."""

    async def open_and_generate(folder: Path) -> bool:
        async with _forge(folder) as forge:
            await forge.generate(_request(), lambda: asyncio.sleep(0, GenerationResult(code="x")), pipeline="p")
            return await forge.outbox.drain(timeout_s=20)

    for turn in range(5):
        assert all(await asyncio.gather(*(open_and_generate(tmp_path / f"{turn}-{side}") for side in "ab")))


async def test_a_base_exception_is_recorded(tmp_path: Path) -> None:
    """A pipeline may raise a BaseException of its own."""

    class Abort(BaseException):
        pass

    forge = _forge(tmp_path)

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        raise Abort

    async with forge:
        with pytest.raises(Abort):
            await generate(_request())
        assert await forge.outbox.drain(timeout_s=10)
        assert [record.outcome for record in forge.recent.records()] == ["error"]


async def test_a_wrong_return_type_is_an_error(tmp_path: Path) -> None:
    """The caller gets an error message, and the record has the error."""
    forge = _forge(tmp_path)

    @forge.generation
    async def generate(request: GenerationRequest) -> Any:
        return "just text"

    async with forge:
        with pytest.raises(TypeError, match="returned str, not a GenerationResult"):
            await generate(_request())
        assert await forge.outbox.drain(timeout_s=10)
        assert [record.error_type for record in forge.recent.records()] == ["TypeError"]


@pytest.mark.parametrize(
    "wrong", [{"metadata": None}, {"artifacts": {1: "x"}}, {"artifacts": {"a": 1}}, {"code": b"x"}]
)
def test_a_result_with_wrong_types_is_rejected_when_it_is_created(wrong: dict[str, Any]) -> None:
    """Not later, when it is stored and the generation was paid for."""
    with pytest.raises(TypeError, match="GenerationResult"):
        GenerationResult(**{"code": "x"} | wrong)


async def test_a_score_that_no_float_holds_is_left_out(tmp_path: Path) -> None:
    """The record is kept without the score."""
    forge = _forge(tmp_path)

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code="x", metadata={"quality_score": 10**400})

    async with forge:
        await generate(_request())
        assert await forge.outbox.drain(timeout_s=10)
        assert [record.quality_score for record in forge.recent.records()] == [None]


async def test_equal_requests_in_two_unicode_forms_share_their_answer(tmp_path: Path) -> None:
    """Composed and decomposed letters have one key and one set of tags."""
    forge = _forge(tmp_path)

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code="c")

    async with forge:
        await generate(_request(figma_key="caf\u00e9"))
        assert (await generate(_request(figma_key="cafe\u0301"))).source == "L1"


async def test_a_huge_report_counts_for_the_size_of_an_entry(tmp_path: Path) -> None:
    """The limit applies to everything that is stored."""
    forge = _forge(tmp_path, cache_max_entry_bytes=1000)

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        return GenerationResult(code="c", report_html="x" * 10**6)

    async with forge:
        await generate(_request())
        assert (await generate(_request())).source == "L4"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FORGE_PRICES", "[]"),
        ("FORGE_PRICES", '{"m": 5}'),
        ("FORGE_PRICES", '{"m": {"input_usd": "-5", "output_usd": "NaN"}}'),
        ("FORGE_CACHE_URL", "redis://:hunter2@h:63x79/0"),
        ("FORGE_CACHE_URL", "red_is://:hunter2@h/0"),
        ("FORGE_CACHE_URL", "://:hunter2@h/0"),
        ("FORGE_DATABASE_URL", "postgresql asyncpg://u:hunter2@h/d"),
        ("FORGE_DATABASE_URL", "postgresql+asyncpg://u:hunter2@h:port/d"),
        ("FORGE_CACHE_TTL_S", "inf"),
        ("FORGE_ADMIN_TOKEN", "hunter2-pässwörd-hunter2"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_without_its_secret(name: str, value: str) -> None:
    """When the runtime is built, with the name of the setting and without the password."""
    with pytest.raises(ConfigurationError) as caught:
        Forge.from_env({name: value})
    assert "hunter2" not in str(caught.value)


def test_a_password_with_a_slash_is_masked() -> None:
    """Everything before the last @ is treated as credentials."""
    assert "hunter2" not in repr(Settings(database_url="postgresql+asyncpg://u:x/hunter2@h/d"))


def test_a_component_id_that_is_no_string_is_a_bad_request() -> None:
    """A number is rejected like any other malformed id."""
    with pytest.raises(BadRequest):
        _request(component_id=5)


def test_an_authenticated_entry_of_another_shape_is_damaged() -> None:
    """A valid MAC around an unknown format is a miss, not an error."""
    body = b"\0" + bytes(8) + b'{"code":"x","artifacts":["x"],"report_html":null,"metadata":{},"origin_id":""'
    body += b',"cost_usd":"1","epochs":{}}'
    with pytest.raises(DamagedFrame):
        unseal(b"FGE1" + hmac.digest(b"s", b"k\0" + body, "sha256") + body, key="k", secret=b"s")


async def test_half_a_surrogate_in_an_error_does_not_hide_the_list(tmp_path: Path) -> None:
    """The dashboard shows generations whose errors are not valid Unicode."""
    forge = _forge(tmp_path)
    app = Starlette()
    app.add_middleware(ForgeMiddleware, forge=forge)

    @forge.generation
    async def generate(request: GenerationRequest) -> GenerationResult:
        raise ValueError("bad \ud800 text")

    headers = {"authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(app)
    async with forge, httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
        with pytest.raises(ValueError, match="bad"):
            await generate(_request())
        assert await forge.outbox.drain(timeout_s=10)
        assert (await client.get("/forge/api/generations")).status_code == 200
        # The middleware entered it without a lifespan, so only this test can leave it.
        await forge.__aexit__(None, None, None)


async def test_leaving_too_often_is_an_error(tmp_path: Path) -> None:
    """The forge can still be opened afterwards."""
    forge = _forge(tmp_path)
    with pytest.raises(Exception, match="left more often"):
        await forge.__aexit__(None, None, None)
    async with forge:
        assert forge.is_open


async def test_closing_at_once_leaves_no_exception_unseen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error of a ping during closing is not logged as never retrieved."""
    forge = _forge(tmp_path)
    for turn in range(6):
        async with forge:
            await asyncio.sleep(0.001 * turn)
    gc.collect()
    assert "never retrieved" not in caplog.text
