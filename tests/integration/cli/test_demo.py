"""`forge-otel demo` as an installed command."""

import asyncio
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
async def test_all_sources_agree_on_the_workload(tmp_path: Path) -> None:
    """The table of `--once` compares the caller, the database, the metrics and the archive."""
    command = (sys.executable, "-m", "forge_otel.cli", "demo", "--once")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await asyncio.wait_for(process.communicate(), 120))[0].decode()
    assert process.returncode == 0, output
    assert "artifact folder agree" in output
    assert "Offline model:" in output
    assert "POST /generate" in output
