"""The promises of the README are executed."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from forge_otel.forge import Forge, default
from forge_otel.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _quick_start() -> str:
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (code,) = [block for block in blocks if "FastAPI()" in block]
    return code


@pytest.fixture
def fresh_default() -> Iterator[None]:
    """An empty process default, before and after the test."""
    default.cache_clear()
    yield
    default.cache_clear()


@pytest.mark.usefixtures("fresh_default")
def test_the_quick_start_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed service answers the second request from the cache, and serves its metrics."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(_quick_start(), "README.md", "exec"), names)  # the README is ours
    with TestClient(names["app"], client=("127.0.0.1", 50_000)) as client:
        question = {"component_type": "button", "figma_key": "abc"}
        answers = [client.post("/generate", params=question).json() for _ in range(2)]
        page = client.get("/metrics").text
    assert [answer["source"] for answer in answers] == ["L4", "L1"]
    assert answers[0]["code"] == answers[1]["code"] == "export const Button = () => <button />;\n"
    assert answers[0]["trace_id"] != answers[1]["trace_id"]
    assert 'forge_cache_lookups_total{cache_layer="L1",cache_outcome="hit"} 1.0' in page


def test_the_quick_start_is_short_and_is_the_shipped_example() -> None:
    """Twenty lines, and the same code as examples/quickstart.py but for its docstrings."""
    lines = [line for line in _quick_start().splitlines() if line.strip()]
    assert len(lines) <= 20
    shipped = ast.parse((ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8"))
    for node in ast.walk(shipped):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    assert ast.dump(shipped) == ast.dump(ast.parse(_quick_start()))


def test_every_place_that_it_names_is_there() -> None:
    """Links within the repository lead somewhere."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_table_of_defaults_is_true() -> None:
    """The defaults that the README prints are those of the settings."""
    settings = Settings()
    for url in (settings.cache_url, settings.archive_url, settings.database_url, settings.outbox_dir):
        assert f"`{url}`" in README
    known = {f"FORGE_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert set(re.findall(r"FORGE_[A-Z_]{2,}", README)) <= known


def test_the_commands_are_targets_of_the_makefile() -> None:
    """`make demo` and `make test` exist as printed."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert "make demo" in README
    assert "make test" in README


def test_a_forge_can_be_built_from_an_empty_environment() -> None:
    """Nothing needs to be set."""
    assert not [name for name in os.environ if name.startswith("FORGE_")]
    assert Forge.from_env().settings == Settings()
