"""Prints how easy the source is to find one's way in: sizes, depths, repetitions and prose, beside their targets.

    figures.py [SOURCE]      SOURCE is the folder that contains forge_otel; src by default

Figures that are rules stand in `tests/test_architecture.py` as well, where they fail the build.
"""

import asyncio
import io
import statistics
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import dialect, structure  # noqa: E402 - run as a script, the root is not on the path

Modules = list[structure.Module]
WISH: Final = {"text": "A blue button."}


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    target: str
    is_met: bool


def at_most(name: str, value: float, limit: float, *, digits: int = 0) -> Figure:
    """Return a row whose value is best small."""
    return Figure(name, f"{value:.{digits}f}", f"≤ {limit:g}", round(value, digits) <= limit)


def figures(source: Path) -> list[Figure]:
    """Return the rows for the source below `source`."""
    modules = structure.package_modules(source)
    protocols = structure.protocols_of(modules)
    extension_points = {
        node.name for module in modules if structure.is_extension_point(module) for node in structure.classes_of(module)
    }
    folders = Counter(module.folder for module in modules)
    root_modules = [m for m in modules if m.folder == structure.PACKAGE and not m.is_package]
    plain = [m for m in modules if not m.is_package and ".migrations" not in m.name]
    lines = sum(len(module.text.splitlines()) for module in modules)
    comments = sum(map(comment_lines, modules))
    findings = dialect.findings([source / structure.PACKAGE])
    cold, hit = files_entered(source)
    functions = sorted(size_of(node) for module in modules for node in structure.functions_of(module))
    return [
        at_most("files in the largest flat folder", max(folders.values()), 15),
        at_most("longest chain of imports", len(structure.longest_chain(modules)), 15),
        at_most("class names used more than once", len(structure.repeated_class_names(modules)), 0),
        at_most("Protocols", len(protocols), 25),
        at_most(
            "Protocols with one implementation",
            sum(count == 1 and name not in extension_points for name, count in protocols.items()),
            0,
        ),
        at_most("probes for optional abilities", len(structure.ability_probes(modules)), 5),
        at_most("modules without __init__ and migrations", len(plain), 215),
        at_most("files entered by a cold generation", cold, 48),
        at_most("files entered by an L1 hit", hit, 26),
        at_most("modules at the root of the package", len(root_modules) + 1, 9),
        Figure("comment lines", f"{comments / lines:.1%}", "≥ 2.5%", comments / lines >= 0.025),
        at_most("findings of private dialect per 1,000 lines", 1000 * len(findings) / lines, 1, digits=1),
        at_most("modules without a test file of their name", len(untested(modules)), 0),
        at_most("lines of the longest file", max(len(module.text.splitlines()) for module in modules), 500),
        at_most("lines of the longest function", functions[-1], 60),
        Figure("lines of the median function", f"{statistics.median(functions):.0f}", "", is_met=True),
    ]


def size_of(node: structure.Function) -> int:
    """Return the lines of a function, docstring included, decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def comment_lines(module: structure.Module) -> int:
    """Return how many lines have a comment that is no instruction to a tool."""
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return sum(not comment.startswith(("# noqa", "# type:")) for comment in comments)


def untested(modules: Modules) -> list[str]:
    """Return the modules with functions that no test file of their name mirrors."""
    tests = {path.relative_to(ROOT / "tests").with_suffix("").parts[1:] for path in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for module in modules:
        has_code = any(True for _ in structure.functions_of(module))
        if module.is_package or ".migrations" in module.name or not has_code:
            continue
        *folders, name = module.name.split(".")[1:]
        if (*folders, f"test_{name}") not in tests:
            missing.append(module.name)
    return missing


def files_entered(source: Path) -> tuple[int, int]:
    """Return how many of our files a cold generation enters, and how many an L1 hit does, with default settings."""
    sys.path.insert(0, str(source))
    return asyncio.run(_files_entered())


async def _files_entered() -> tuple[int, int]:
    from forge_otel import Forge, GenerationRequest, GenerationResult, Settings
    from forge_otel import __file__ as package

    root = str(Path(package).parent)
    entered: set[str] = set()

    def on_call(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(root):
            entered.add(frame.f_code.co_filename)

    async def count(number: int) -> int:
        entered.clear()
        sys.setprofile(on_call)
        threading.setprofile(on_call)
        try:
            await generate(
                GenerationRequest(
                    component_type="button", figma_key=str(number), requirements={"text": "A blue button."}
                )
            )
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        found = len(entered)
        # The record is delivered behind the caller, and must not be counted with the next call.
        await asyncio.sleep(0.5)
        return found

    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite+aiosqlite:///{folder}/forge.db"
        forge = Forge(Settings(outbox_dir=f"{folder}/outbox", archive_url=f"file://{folder}/a", database_url=database))

        @forge.agent("writer")
        async def write() -> str:
            forge.record_usage(100, 10, model="gpt-4o", provider="openai")
            return "<button/>"

        @forge.generation
        async def generate(request: GenerationRequest) -> GenerationResult:
            return GenerationResult(code=await write())

        async with forge:
            # The first generation also pays for what is imported and made once.
            await count(1)
            return await count(2), await count(2)


def main(arguments: list[str]) -> int:
    """Print the table."""
    source = Path(arguments[0]) if arguments else structure.SOURCE
    rows = figures(source.resolve())
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.value:>7}  {row.target:>7}  {'✓' if row.is_met else '✗'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
