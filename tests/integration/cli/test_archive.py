"""`forge-otel archive` on a real S3 API and on a folder."""

import asyncio
import itertools
import json
from pathlib import Path

import aioboto3
import httpx
import pytest
from tests.unit.sinks.builders import record

from forge_otel import cli
from forge_otel._runtime.plugins import load

ITEM = record(artifacts={"component.tsx": "export {}", "tokens.json": "{}"})
numbers = itertools.count(1)


async def run(*arguments: str) -> int:
    """Run the command as an operator does."""
    return await asyncio.to_thread(cli.main, ("archive", *arguments))


async def filled(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive with one component, which the environment names."""
    async with load("sinks", url)(url) as archive:
        await archive.deliver([ITEM])
    monkeypatch.setenv("FORGE_ARCHIVE_URL", url)


@pytest.fixture
async def s3_url(s3_endpoint: str) -> str:
    """An archive in an empty bucket."""
    bucket = f"forge-command-{next(numbers)}"
    async with aioboto3.Session().client("s3", endpoint_url=s3_endpoint) as client:
        await client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}?endpoint_url={s3_endpoint}"


async def test_a_bucket_is_prepared_listed_measured_linked_and_emptied(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All actions on a bucket, from its preparation to the deletion of every version."""
    await filled(s3_url, monkeypatch)
    assert await run("prepare", "--days", "30") == 0
    assert "versioning: on (changed now)" in capsys.readouterr().out
    assert await run("list", "components/button-1") == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        f"components/button-1/{name}" for name in ("component.tsx", "manifest.json", "tokens.json")
    ]
    assert await run("usage", "--usd-per-gib", "1000000") == 0
    shown = capsys.readouterr().out
    assert "current: 3 objects" in shown
    assert "with older versions: 3 objects" in shown
    assert "$0.0000 a month" not in shown
    assert await run("link", "components/button-1/component.tsx") == 0
    async with httpx.AsyncClient() as client:
        assert (await client.get(capsys.readouterr().out.splitlines()[-1])).text == "export {}"
    assert await run("delete", "button-1", "--versions") == 0
    assert "3 objects deleted" in capsys.readouterr().out
    assert await run("usage") == 0
    assert "with older versions: 0 objects" in capsys.readouterr().out


async def test_a_folder_is_listed_measured_and_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same actions; those that need a bucket are errors."""
    await filled(f"file://{tmp_path}/archive", monkeypatch)
    assert await run("usage") == 0
    assert "current: 3 objects" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "archive/components/button-1/manifest.json").read_text())
    assert manifest["artifacts"].keys() == ITEM.artifacts.keys()
    for action in (("prepare",), ("link", "components/button-1/tokens.json"), ("delete", "button-1", "--versions")):
        assert await run(*action) == 2
        assert "only an archive in S3" in capsys.readouterr().err
    assert await run("delete", "button-1") == 0
    assert "3 objects deleted" in capsys.readouterr().out
    assert await run("delete", "../etc") == 1
    monkeypatch.setenv("FORGE_ARCHIVE_URL", "")
    assert await run("list") == 2
