"""`forge-otel report`, and the same report from the API of a running service."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from tests.unit.sinks.builders import record

from componentforge.serving import serve
from forge_otel import Forge, ForgeMiddleware, Settings, cli
from forge_otel.sinks.sql import SqlSink

TOKEN = "a-token-of-the-tests"
START = datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
RANGE = {"from": "2026-03-01T10:30:00Z", "to": "2026-03-02"}


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with six generations: two full, three from the cache, one failed."""
    found = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    if request.param == "postgres":
        found = str(request.getfixturevalue("postgres_database"))
    hit = {"source": "L1", "duration_s": 0.01, "misses": {}, "costs": (), "cost_usd": Decimal(0)}
    async with SqlSink(found) as sink:
        await sink.deliver(
            [
                record(created_at=START),
                record(created_at=START + timedelta(hours=2), component_type="<b>card</b>"),
                *(record(created_at=START + timedelta(hours=1), saved_usd=Decimal("0.42"), **hit) for _ in range(3)),
                record(created_at=START, source="", outcome="error", error_type="=cmd()", costs=()),
                record(created_at=START - timedelta(microseconds=1)),
            ]
        )
    return found


async def run(*arguments: str) -> int:
    """Run the command in a thread, because it starts an event loop."""
    return await asyncio.to_thread(cli.main, ["report", *arguments])


@pytest.fixture
def command(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's environment."""
    monkeypatch.setenv("FORGE_DATABASE_URL", url)


@pytest.mark.usefixtures("command")
async def test_the_table_shows_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, rates and money, and neither the generation before the range nor another type."""
    assert await run("--from", RANGE["from"], "--to", RANGE["to"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "generations 6" in lines
    assert "success rate 83.33%" in lines
    assert "cost USD 1.260000000" in lines or "cost USD 1.26" in lines
    assert "L1 6 3 50.00% 1.26" in lines
    assert await run("--from", RANGE["from"], "--to", RANGE["to"], "--type", "card") == 0
    assert "generations 0" in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("command")
async def test_json_and_csv_have_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Names that a spreadsheet would interpret as formulas are escaped."""
    assert await run("--from", RANGE["from"], "--to", RANGE["to"], "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert await run("--from", RANGE["from"], "--to", RANGE["to"], "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    values = {(row["section"], row["name"], row["figure"]): row["value"] for row in rows}
    assert found["summary"]["generations"] == int(values["Summary", "generations", "value"]) == 6
    assert Decimal(found["summary"]["saved_usd"]) == Decimal(values["Summary", "saved USD", "value"])
    assert found["errors"] == [{"error_type": "=cmd()", "count": 1}]
    assert values["Errors", "'=cmd()", "count"] == "1"
    assert [point["generations"] for point in found["series"]] == [2, 3, 1]
    assert found["start"] == "2026-03-01T10:30:00+00:00"


@pytest.mark.usefixtures("command")
async def test_the_page_shows_names_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A component type with markup is escaped."""
    assert await run("--from", RANGE["from"], "--to", RANGE["to"], "--format", "html") == 0
    page = capsys.readouterr().out
    texts: list[str] = []
    tags: set[str] = set()
    reader = HTMLParser()
    reader.handle_data = texts.append  # type: ignore[method-assign]
    reader.handle_starttag = lambda tag, _: tags.add(tag)  # type: ignore[method-assign]
    reader.feed(page)
    assert "<b>card</b>" in texts
    assert "b" not in tags


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--from", "yesterday"), "from='yesterday' is not a time"),
        (("--from", "2026-03-02", "--to", "2026-03-01"), "before it starts"),
        (("--from", "2020-01-01", "--to", "2026-01-01"), "at most 366 days"),
        (("--from", "0001-01-01", "--to", "0001-01-02"), "outside the calendar"),
        (("--errors", "0"), "1 to 100"),
        (("--type", "a\0b"), "printable"),
    ],
)
async def test_an_invalid_argument_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an exit code, and without a traceback."""
    assert await run(*arguments) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "database", ["sqlite+aiosqlite:////nowhere/forge.db", "postgresql+asyncpg://u:pw@127.0.0.1:1/x"]
)
@pytest.mark.parametrize("name", ["report", "migrate"])
async def test_an_unavailable_database_is_one_sentence(
    name: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, no password, exit code 1."""
    monkeypatch.setenv("FORGE_DATABASE_URL", database.replace("/nowhere", "/proc/nowhere"))
    assert await asyncio.to_thread(cli.main, [name]) == 1
    error = capsys.readouterr().err
    assert error.startswith("forge-otel: ")
    assert len(error.splitlines()) == 1
    assert ":pw@" not in error


@pytest.fixture
async def client(url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running service with the admin token."""
    settings = Settings(archive_url=None, database_url=url, outbox_dir=str(tmp_path / "box"), admin_token=TOKEN)
    app = Starlette()
    app.add_middleware(ForgeMiddleware, forge=Forge(settings))
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with serve(app) as base_url, httpx.AsyncClient(base_url=base_url, headers=headers) as found:
        yield found


async def test_the_api_returns_the_same_report(client: httpx.AsyncClient) -> None:
    """In each format, and only with the token; an invalid query is a 400."""
    async with asyncio.timeout(10):
        while (answer := await client.get("/forge/api/report", params=RANGE)).status_code == 503:
            await asyncio.sleep(0.02)
    assert answer.json()["summary"]["generations"] == 6
    for kind, media_type in [("csv", "text/csv"), ("html", "text/html"), ("table", "text/plain")]:
        answer = await client.get("/forge/api/report", params=RANGE | {"format": kind})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
    for wrong in [
        {"from": "soon"},
        {"from": "2020-01-01"},
        {"format": "xml"},
        {"errors": "101"},
        {"errors": "-1"},
        {"errors": "1000000000000"},
        {"page": "2"},
        {"type": "x" * 300},
    ]:
        answer = await client.get("/forge/api/report", params=RANGE | wrong)
        assert answer.status_code == 400, wrong
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.get("/forge/api/report", headers={"authorization": ""})).status_code == 401


async def test_without_a_database_there_is_no_report() -> None:
    """The API responds with 404."""
    app = Starlette()
    settings = Settings(archive_url=None, database_url=None, outbox_dir=None, admin_token=TOKEN)
    app.add_middleware(ForgeMiddleware, forge=Forge(settings))
    async with serve(app) as base_url, httpx.AsyncClient(base_url=base_url) as client:
        answer = await client.get("/forge/api/report", headers={"authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
