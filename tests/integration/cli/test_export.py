"""`forge-otel export traces` from SQLite and PostgreSQL."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.sinks.builders import record

from forge_otel._internal.ids import new_id
from forge_otel.cli import main
from forge_otel.sinks.sql import SqlSink
from forge_otel.types import Cost, Record, Step, Usage

START = datetime(2026, 1, 31, tzinfo=UTC)
COST = Cost(api="openai", model="gpt-4o", agent="writer", usage=Usage(output=7), amount_usd=Decimal("0.000000001"))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty database of each kind, in the environment of the command."""
    if request.param == "postgres":
        found = str(request.getfixturevalue("postgres_database"))
    else:
        found = f"sqlite+aiosqlite:///{tmp_path}/forge.db"
    monkeypatch.setenv("FORGE_DATABASE_URL", found)
    return found


async def fill(url: str, records: Sequence[Record]) -> None:
    """Store records."""
    async with SqlSink(url) as sink:
        await sink.deliver(records)


def many(count: int, **changes: Any) -> list[Record]:
    """Generations, three in the same microsecond, one a minute."""
    return [
        record(id=new_id(), created_at=START + timedelta(minutes=number // 3), costs=(COST, COST), **changes)
        for number in range(count)
    ]


def exported(capfd: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    """Run the command and read its lines."""
    assert main(["export", "traces", *options]) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


async def test_a_line_has_the_fields_of_the_record(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Steps, costs to the billionth of a dollar, trace id and URL."""
    step = Step(name="writer", kind="agent", started_s=0.5, duration_s=1.5)
    item = record(costs=(COST,), steps=(step,), trace_id="a" * 32, langsmith_url="https://smith/r/1", quality_score=0.5)
    await fill(url, [item])
    (line,) = await in_thread(exported, capfd)
    assert (line["id"], line["trace_id"], line["langsmith_url"]) == (item.id, "a" * 32, "https://smith/r/1")
    assert line["steps"][0]["name"] == "writer"
    assert (line["costs"][0]["agent"], line["costs"][0]["output_tokens"]) == ("writer", 7)
    assert Decimal(line["costs"][0]["amount_usd"]) == Decimal("0.000000001")
    assert Decimal(line["cost_usd"]) == item.cost_usd
    assert datetime.fromisoformat(line["created_at"]) == item.created_at


async def test_every_generation_of_a_range_is_exported_once(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """More than two pages with equal times across their borders; the end is exclusive."""
    records = many(1_204)
    await fill(url, records)
    await fill(url, [replace(one, id=new_id(), component_type="card") for one in many(3)])
    lines = await in_thread(exported, capfd, "--type", "button")
    ordered = sorted(records, key=lambda item: (item.created_at, item.id))
    assert [line["id"] for line in lines] == [item.id for item in ordered]
    assert all(len(line["costs"]) == 2 for line in lines)
    some = await in_thread(exported, capfd, "--from", "2026-01-31T00:01", "--to", "2026-01-31T01:03+01:00")
    assert {line["created_at"][14:16] for line in some} == {"01", "02"}
    assert await in_thread(exported, capfd, "--from", "2026-02-02") == []


async def in_thread(function: Any, *arguments: Any) -> Any:
    """Run a command in a thread, because it starts an event loop."""
    return await asyncio.to_thread(function, *arguments)


@pytest.mark.parametrize(
    ("environ", "options", "code", "sentence"),
    [
        ({"FORGE_DATABASE_URL": ""}, [], 2, "name the database of the service"),
        ({}, ["--from", "yesterday"], 2, "not an ISO 8601 date"),
        ({"FORGE_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, [], 1, "is unavailable"),
    ],
)
def test_an_error_is_one_sentence(
    environ: dict[str, str], options: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    """An exit code, no stack trace, no password."""
    command = [sys.executable, "-m", "forge_otel.cli", "export", "traces", *options]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
