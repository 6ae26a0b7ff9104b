"""Tests of the types of decorated functions, by a type checker run on a user's file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

USER = """
from collections.abc import AsyncIterator, Iterator
from forge_otel import Forge, agent, step, tool

forge = Forge()

@agent("coder")
async def coder(task: str, *, tries: int = 1) -> dict[str, int]: ...
@tool
def measure(text: str) -> float: ...
@forge.llm(capture=True)
async def tokens(prompt: str) -> AsyncIterator[str]:
    yield prompt
@step
def parts(count: int) -> Iterator[bytes]:
    yield b""

class Agents:
    @agent
    async def run(self, task: str) -> int: ...
    @forge.retriever("store")
    @staticmethod
    def find(query: str) -> list[str]: ...
    @forge.chain
    @classmethod
    def make(cls, name: str) -> "Agents": ...

async def use() -> None:
    reveal_type(await coder("x", tries=2))
    reveal_type(measure("x"))
    reveal_type(tokens("x"))
    reveal_type(parts(1))
    reveal_type(await Agents().run("x"))
    reveal_type(Agents.find("x"))
    reveal_type(Agents.make("x"))
    async with forge.span("block", kind="agent") as span:
        span.set("size", 1)
    await coder(1)
    measure()
"""
REVEALED = [
    "dict[str, int]",
    "float",
    "AsyncIterator[str]",
    "Iterator[bytes]",
    "int",
    "list[str]",
    "Agents",
]


@pytest.mark.slow
def test_decorated_functions_keep_their_types(tmp_path: Path) -> None:
    """Revealed results are as declared, and wrong arguments are errors."""
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    options = ["--strict", "--disable-error-code", "empty-body", "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.findall(r'Revealed type is "(?:typing\.|user\.)?(.*)"', done.stdout) == REVEALED
    assert re.findall(r": error: .*\[(.*)\]", done.stdout) == ["arg-type", "call-arg"]
