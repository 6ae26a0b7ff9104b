"""The command `forge-otel` as a whole."""

import asyncio
import sys
from pathlib import Path

import pytest

from forge_otel import cli


async def test_the_installed_command_lists_its_commands() -> None:
    """`forge-otel --help` names every module of the folder."""
    command = Path(sys.executable).with_name("forge-otel")
    process = await asyncio.create_subprocess_exec(command, "--help", stdout=asyncio.subprocess.PIPE)
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0
    modules = Path(str(cli.__file__)).parent.glob("[a-z]*.py")
    assert all(f"    {module.stem} " in output for module in modules)


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the list of the commands."""
    with pytest.raises(SystemExit) as exited:
        cli.main(["polish"])
    assert exited.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
