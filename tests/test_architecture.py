"""The house rules, held over the syntax trees of `src/forge_otel`.

A rule is a function from modules to faults. Each comes with a sample that breaks it and one that comes close without
breaking it, so that a rule that cannot fail, or fails on good code, is caught too.

How things are counted:

* *Lines of a function*: from `def` to the last line, docstring included, decorators not.
* *Nesting*: blocks of `if`, `for`, `while`, `with`, `try` and `match` inside a function. `elif` stands on the level of
  its `if`; `else`, `except`, `finally` and `case` add none of their own; a `with` of several items is one level. A
  function or class inside a function starts again at zero.
* *Imports*: all of them, those inside functions and under TYPE_CHECKING too, relative ones resolved.
"""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts import dialect
from scripts.structure import (
    PACKAGE,
    ROOT,
    Function,
    Imported,
    Module,
    ability_probes,
    classes_of,
    functions_of,
    imports_of,
    is_extension_point,
    longest_chain,
    our_imports,
    package_modules,
    protocols_of,
    repeated_class_names,
    room_of,
)

# Bottom to top. A module imports its own floor and those below it; "" is the package itself, what users see.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "names"),
    ("_internal",),
    ("types",),
    ("keys", "context", "pricing"),
    ("settings", "text_matching", "_journal"),
    ("resilience", "leases"),
    ("stores", "vector_stores", "embedders", "database"),
    ("telemetry",),
    ("layers", "outbox", "figma"),
    ("sinks",),
    ("_runtime",),
    ("forge",),
    ("web",),
    ("",),
    ("cli", "testing"),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
EXTENSION_ROOMS = ("stores", "sinks", "layers")
GUEST_ROOMS = (*EXTENSION_ROOMS, "telemetry", "figma")
# Rooms whose modules are loaded by URL or by use: there an optional package is imported at the top of the file.
ADAPTER_ROOMS = ("stores", "vector_stores", "leases", "sinks", "embedders", "database", "figma")
# Alembic loads these after database/ has imported it.
MIGRATIONS = f"{PACKAGE}.database.migrations"

MAX_FILE_LINES = 500
MAX_CLASS_LINES = 250
MAX_FUNCTION_LINES = 60
MAX_FOLDER_FILES = 15
MAX_ROOT_MODULES = 9
MAX_CHAIN = 15
MAX_PROTOCOLS = 25
MAX_NESTING = 3
MAX_PUBLIC_NAMES = 20
# Misspelt, such a name is an attribute that changes nothing.
DUNDER_NAMES = {"__hash__", "__match_args__", "__slots__", "__table_args__", "__tablename__"}

# Which distributions bring a module, where that is not the one of the same name.
BROUGHT_BY = {
    "alembic": {"alembic"},
    "botocore": {"aioboto3"},
    "aiobotocore": {"aioboto3"},
    "aiohttp": {"aioboto3"},
    "httpx": {"httpx", "openai", "qdrant-client"},
    "numpy": {"numpy", "qdrant-client"},
    "opentelemetry": {"opentelemetry-api", "opentelemetry-sdk"},
    "opentelemetry.exporter.otlp": {"opentelemetry-exporter-otlp-proto-http"},
    "opentelemetry.exporter.otlp.proto.common": {"opentelemetry-exporter-otlp-proto-common"},
    "opentelemetry.exporter.prometheus": {"opentelemetry-exporter-prometheus"},
    "opentelemetry.instrumentation.asgi": {"opentelemetry-instrumentation-fastapi"},
    "opentelemetry.instrumentation.fastapi": {"opentelemetry-instrumentation-fastapi"},
    "opentelemetry.instrumentation.openai_v2": {"opentelemetry-instrumentation-openai-v2"},
    "opentelemetry.proto": {"opentelemetry-proto", "opentelemetry-exporter-otlp-proto-http"},
    "pydantic": {"fastapi", "sqlmodel"},
    "sqlalchemy": {"sqlmodel"},
    "zstandard": {"langsmith"},
}
NOT_LOADED_BY_BARE_IMPORT = (
    *("aioboto3", "aiosqlite", "alembic", "asyncpg", "fastapi", "genai_prices", "httpx", "langsmith", "numpy"),
    *("openai", "qdrant_client", "redis", "rich", "sqlalchemy", "sqlmodel", "uvicorn"),
)

# Spelt as patterns that do not match themselves.
FOREIGN = (
    r"(?<![\w.])/w[o]rk/",
    *(r"pypi[.]org", r"pythonhosted[.]org", r"crates[.]io", r"proxy[.]golang", r"npmjs[.](?:org|com)"),
    *(r"repo1?[.]maven", r"(?:deb|security)[.]debian[.]org"),
)

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


Rule = Callable[[list[Module]], list[str]]


def imports_point_down(modules: list[Module]) -> list[str]:
    """No module imports from a floor above its own."""
    faults = [
        module.fault(1, f"{module.room!r} has no floor in {Path(__file__).name}")
        for module in modules
        if module.room not in FLOOR_OF
    ]
    for module, imported in our_imports(modules):
        above = FLOOR_OF.get(room_of(imported.target), len(FLOORS)) > FLOOR_OF.get(module.room, len(FLOORS))
        if above:
            faults.append(module.fault(imported.line, f"imports {imported.target} from above"))
    return faults


def guests_do_not_know_the_house(modules: list[Module]) -> list[str]:
    """Stores, sinks, layers, telemetry and figma work without the runtime and without the web."""
    return [
        module.fault(imported.line, f"imports {imported.target}")
        for module, imported in our_imports(modules)
        if module.room in GUEST_ROOMS and room_of(imported.target) in {"forge", "web", ""}
    ]


def extension_rooms_are_apart(modules: list[Module]) -> list[str]:
    """Stores, sinks and layers do not import each other."""
    return [
        module.fault(imported.line, f"imports {imported.target}")
        for module, imported in our_imports(modules)
        if {module.room, room_of(imported.target)} <= set(EXTENSION_ROOMS) and module.room != room_of(imported.target)
    ]


def no_circles(modules: list[Module]) -> list[str]:
    """No module reaches itself through imports, whenever they run."""
    edges: dict[str, set[str]] = {module.name: set() for module in modules}
    for module, imported in our_imports(modules):
        edges[module.name].add(imported.target)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(edges.get(name, ()))
        return seen

    members = [module for module in modules if module.name in reachable(module.name)]
    return [module.fault(1, "is part of an import circle") for module in members]


def files_are_short(modules: list[Module]) -> list[str]:
    """A file has at most 500 lines."""
    lengths = [(module, len(module.text.splitlines())) for module in modules]
    return [module.fault(1, f"has {length} lines") for module, length in lengths if length > MAX_FILE_LINES]


def functions_are_short(modules: list[Module]) -> list[str]:
    """A function has at most 60 lines."""
    faults = []
    for module in modules:
        for function in functions_of(module):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                faults.append(module.fault(function.lineno, f"{function.name} has {length} lines"))
    return faults


def classes_are_short(modules: list[Module]) -> list[str]:
    """A class has at most 250 lines."""
    faults = []
    for module in modules:
        for node in classes_of(module):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_CLASS_LINES:
                faults.append(module.fault(node.lineno, f"{node.name} has {length} lines"))
    return faults


def folders_are_small(modules: list[Module]) -> list[str]:
    """A folder has at most 15 modules, the package itself at most 9."""
    files = Counter(module.folder for module in modules)
    return [
        module.fault(1, f"lies in a folder of {files[module.folder]} files")
        for module in modules
        if files[module.folder] > (MAX_ROOT_MODULES if module.folder == PACKAGE else MAX_FOLDER_FILES)
    ]


def class_names_are_unique(modules: list[Module]) -> list[str]:
    """A class name stands for one thing."""
    repeated = repeated_class_names(modules)
    return [f"{place}:1: {name} is also the name of another class" for name in repeated for place in repeated[name]]


def chains_are_short(modules: list[Module]) -> list[str]:
    """At most 15 modules import each other one after the other."""
    chain = longest_chain(modules)
    return [f"{name}:1: is part of {' → '.join(chain)}" for name in chain] if len(chain) > MAX_CHAIN else []


def protocols_have_implementations(modules: list[Module]) -> list[str]:
    """A Protocol with a single implementation is that class in disguise, unless third parties implement it."""
    implementations = protocols_of(modules)
    return [
        module.fault(node.lineno, f"{node.name} has one implementation")
        for module in modules
        if not is_extension_point(module)
        for node in classes_of(module)
        if implementations.get(node.name) == 1
    ]


def abilities_are_protocols(modules: list[Module]) -> list[str]:
    """An optional ability of a part is a capability Protocol, checked once with `isinstance`."""
    return ability_probes(modules)


def nesting_is_shallow(modules: list[Module]) -> list[str]:
    """Blocks in a function are at most 3 deep."""
    return [
        module.fault(function.lineno, f"{function.name} nests {depth} deep")
        for module in modules
        for function in functions_of(module)
        if (depth := max(map(nesting_of, function.body))) > MAX_NESTING
    ]


def dunder_names_mean_something(modules: list[Module]) -> list[str]:
    """A dunder name in a class body is one that Python or SQLModel reads."""
    return [
        module.fault(name.lineno, f"{name.id} is read by no library")
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        for name in targets_in(statement)
        if name.id.startswith("__") and name.id.endswith("__") and name.id not in DUNDER_NAMES
    ]


def targets_in(statement: ast.stmt) -> list[ast.Name]:
    """The names that an assignment sets."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target for target in targets if isinstance(target, ast.Name)]


def nesting_of(node: ast.AST) -> int:
    """Levels of blocks in a statement, its own included."""
    if isinstance(node, SCOPES):
        return 0
    inner = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child.col_offset == node.col_offset
        inner = max(inner, nesting_of(child) - is_elif)
    return inner + isinstance(node, BLOCKS)


def reminders_have_owners(modules: list[Module]) -> list[str]:
    """A note to do something later names who will."""
    ownerless = re.compile(r"\b(?:TODO|FIXME)\b(?!\(\w+\))")
    return [
        module.fault(number, line.strip())
        for module in modules
        for number, line in enumerate(module.text.splitlines(), 1)
        if ownerless.search(line)
    ]


def public_things_have_docstrings(modules: list[Module]) -> list[str]:
    """Every module, public function and public class has a docstring."""
    faults = []
    for module in modules:
        if ast.get_docstring(module.tree) is None:
            faults.append(module.fault(1, "has no docstring"))
        if module.name.startswith(MIGRATIONS):
            continue
        for node in module.tree.body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                faults.append(module.fault(node.lineno, f"{node.name} has no docstring"))
    return faults


def public_names_are_few_and_sorted(modules: list[Module]) -> list[str]:
    """The package lists at most 20 names, constants first, then classes, then functions."""
    faults = []
    for module in modules:
        names = listed_names(module.tree) if module.name == PACKAGE else []
        if len(names) > MAX_PUBLIC_NAMES:
            faults.append(module.fault(1, f"lists {len(names)} public names"))
        if names != sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name)):
            faults.append(module.fault(1, "does not sort its public names"))
    return faults


def listed_names(tree: ast.Module) -> list[str]:
    """The strings of `__all__`."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
    return []


def foreign_packages_are_declared(modules: list[Module]) -> list[str]:
    """A package that is no plain dependency is imported inside `with needs(extra):`, of an extra that brings it.

    Or inside a `try` that does without it on ImportError.
    """
    known = {module.name for module in modules}
    faults = []
    for module in modules:
        for imported in imports_of(module, known):
            top = imported.target.split(".")[0]
            if top in sys.stdlib_module_names or top == PACKAGE or imported.around.for_types_only:
                continue
            if module.name.startswith(MIGRATIONS) and top in {"alembic", "sqlalchemy", "sqlmodel"}:
                continue
            if fault := why_not_importable(module, imported):
                faults.append(module.fault(imported.line, f"imports {imported.target} {fault}"))
    return faults


def why_not_importable(module: Module, imported: Imported) -> str | None:
    """Return the fault of an import of a foreign package, or None."""
    plain, extras = declared_dependencies()
    bringers, around = distributions_of(imported.target), imported.around
    if bringers & plain:
        return None
    if around.has_fallback:
        return None if bringers & set().union(*extras.values()) else "which no extra brings"
    if around.extra is None:
        return "outside of `with needs(extra):`"
    if not bringers & extras.get(around.extra, set()):
        return f"which the extra {around.extra!r} does not bring"
    if module.room in ADAPTER_ROOMS and around.in_function:
        return "inside a function; an adapter does it at its top"
    return None


def distributions_of(name: str) -> set[str]:
    """The distributions that bring a module, by its longest known prefix."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in BROUGHT_BY:
            return BROUGHT_BY[prefix]
    return {parts[0].replace("_", "-")}


@functools.cache
def declared_dependencies() -> tuple[set[str], dict[str, set[str]]]:
    """Plain dependencies, and those of each extra with the extras it contains."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for requirement in requirements:
            name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
            if name == project["name"]:
                for extra in requirement.partition("[")[2].partition("]")[0].split(","):
                    found |= names(project["optional-dependencies"][extra.strip()])
            else:
                found.add(name)
        return found

    extras = {extra: names(requirements) for extra, requirements in project["optional-dependencies"].items()}
    return names(project["dependencies"]), extras


@dataclass(frozen=True)
class Samples:
    """Sources by module name: one set that breaks a rule, one that comes close."""

    bad: dict[str, str]
    good: dict[str, str]


def nested(*headers: str) -> str:
    """A function with these block headers inside each other."""
    lines = ["def f():", *("    " * (depth + 1) + header for depth, header in enumerate(headers))]
    return "\n".join([*lines, "    " * (len(headers) + 1) + "pass"])


RULES: dict[Rule, Samples] = {
    imports_point_down: Samples(
        bad={"forge_otel.keys": "def f():\n    from forge_otel.stores import memory"},
        good={"forge_otel.stores.memory": "from forge_otel.keys import digest\nfrom .near import Near"},
    ),
    guests_do_not_know_the_house: Samples(
        bad={"forge_otel.sinks.s3": "if TYPE_CHECKING:\n    from ..forge import Forge"},
        good={"forge_otel.sinks.s3": "from ..types import Record", "forge_otel.web.admin": "from ..forge import Forge"},
    ),
    extension_rooms_are_apart: Samples(
        bad={"forge_otel.layers.exact": "import forge_otel.stores.memory"},
        good={"forge_otel.layers.exact": "import forge_otel.layers.entry\nfrom forge_otel.types import Store"},
    ),
    no_circles: Samples(
        bad={
            "forge_otel.a": "from . import b",
            "forge_otel.b": "from forge_otel.c import x",
            "forge_otel.c": "def f():\n    from .a import y",
        },
        good={"forge_otel.a": "from . import b, c", "forge_otel.b": "from .c import x", "forge_otel.c": "import os"},
    ),
    files_are_short: Samples(bad={"forge_otel.a": "\n" * 501}, good={"forge_otel.a": "\n" * 500}),
    functions_are_short: Samples(
        bad={"forge_otel.a": "class A:\n  async def f():\n" + "    pass\n" * 60},
        good={"forge_otel.a": "@cache\ndef f():\n" + "    pass\n" * 59},
    ),
    classes_are_short: Samples(
        bad={"forge_otel.a": "class A:\n" + "    x = 1\n" * 250},
        good={"forge_otel.a": "class A:\n" + "    x = 1\n" * 249},
    ),
    folders_are_small: Samples(
        bad={f"forge_otel.a.m{number}": "" for number in range(16)},
        good={f"forge_otel.a.m{number}": "" for number in range(15)},
    ),
    class_names_are_unique: Samples(
        bad={"forge_otel.a": "class A: ...", "forge_otel.b": "class A: ..."},
        good={"forge_otel.a": "class A: ...", "forge_otel.b": "class B:\n    class A: ..."},
    ),
    chains_are_short: Samples(
        bad={"forge_otel.m0": ""} | {f"forge_otel.m{n}": f"from . import m{n - 1}" for n in range(1, 16)},
        good={"forge_otel.m0": ""} | {f"forge_otel.m{n}": f"from . import m{n - 1}" for n in range(1, 15)},
    ),
    protocols_have_implementations: Samples(
        bad={"forge_otel.a": "class P(Protocol):\n    def m(self): ...\nclass A:\n    def m(self): ..."},
        good={
            "forge_otel.a": "class P(Protocol):\n    def m(self): ...\nclass A:\n    def m(self): ...\nclass B(A): ...",
            "forge_otel.b": "class Q(Protocol):\n    x: int\nclass C(Q): ...\nclass D:\n    def f(self): self.x = 1",
            "forge_otel.types.c": "class R(Protocol):\n    def r(self): ...\nclass E(R): ...",
        },
    ),
    abilities_are_protocols: Samples(
        bad={"forge_otel.stores.a": "class A:\n    def ping(self): ...\nhasattr(A(), 'ping')"},
        good={"forge_otel.stores.a": "class A:\n    def ping(self): ...\ngetattr(exc, 'sqlstate', None)"},
    ),
    nesting_is_shallow: Samples(
        bad={"forge_otel.a": nested("if a:", "for b in c:", "with d, e:", "while f:")},
        good={
            "forge_otel.a": nested("for b in c:", "with d, e:", "while f:"),
            "forge_otel.b": "def f():\n    if a: 1\n    elif b: 1\n    elif c: 1\n    elif d:\n        if e: 1",
            "forge_otel.c": nested("match a:", "case b:", "for c in d:", "if e:"),
            "forge_otel.d": nested("if a:", "with b:", "for c in d:", "def g():"),
        },
    ),
    dunder_names_mean_something: Samples(
        bad={
            "forge_otel.a": 'class A:\n    __entries__ = ("a",)',
            "forge_otel.b": "class B:\n    __slot__: tuple = ()",
        },
        good={"forge_otel.a": 'class A:\n    __slots__ = ("a",)\n    def __lt__(self, other): ...'},
    ),
    reminders_have_owners: Samples(
        bad={"forge_otel.a": "x = 1  # TODO: later"},
        good={"forge_otel.a": "x = 1  # TODO(ada): when 3.12 is the floor"},
    ),
    public_things_have_docstrings: Samples(
        bad={"forge_otel.a": '"""A."""\ndef f():\n    pass'},
        good={"forge_otel.a": '"""A."""\ndef _f():\n    pass\nclass C:\n    """C."""\n    def m(self): ...'},
    ),
    public_names_are_few_and_sorted: Samples(
        bad={"forge_otel": '__all__ = ["agent", "Forge"]'},
        good={"forge_otel": '__all__ = ["VERSION", "Forge", "agent"]'},
    ),
    foreign_packages_are_declared: Samples(
        bad={
            "forge_otel.stores.a": "from redis.asyncio import Redis",
            "forge_otel.stores.b": 'with needs("s3"):\n    import redis',
            "forge_otel.stores.c": 'def f():\n    with needs("redis"):\n        import redis',
            "forge_otel.stores.d": "import undeclared",
            "forge_otel.web.a": "try:\n    import undeclared\nexcept ImportError:\n    undeclared = None",
        },
        good={
            "forge_otel.stores.a": 'import os, starlette\nwith needs("redis"):\n    from redis.asyncio import Redis',
            "forge_otel.stores.b": "if TYPE_CHECKING:\n    import qdrant_client",
            "forge_otel.web.a": "def f():\n    try:\n        import fastapi\n    except ImportError:\n        pass",
            "forge_otel.cli": 'def f():\n    with needs("demo"):\n        import sqlalchemy, rich',
        },
    ),
}


def sample_modules(sources: dict[str, str]) -> list[Module]:
    """Modules that are only in this file."""
    return [Module(name, text, is_package=name == PACKAGE) for name, text in sources.items()]


def rule_name(rule: Rule) -> str:
    """The rule's own name, for the test's."""
    return rule.__name__


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_the_house_keeps(rule: Rule) -> None:
    """The package breaks no rule."""
    faults = rule(package_modules())
    assert not faults, "\n" + "\n".join([str(rule.__doc__), *faults])


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_a_rule_sees_what_breaks_it(rule: Rule) -> None:
    """Every module of the bad sample is found out; for a circle, every member."""
    modules = sample_modules(RULES[rule].bad)
    faults = "\n".join(rule(modules))
    assert all(f"{module.name}:" in faults for module in modules), faults


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_a_rule_accepts_what_comes_close(rule: Rule) -> None:
    """No false alarm."""
    assert rule(sample_modules(RULES[rule].good)) == []


def test_twenty_one_public_names_are_too_many() -> None:
    """The limit on their number holds as well as their order."""
    names = [f"name_{number:02}" for number in range(21)]
    assert public_names_are_few_and_sorted(sample_modules({PACKAGE: f"__all__ = {names}"}))


def test_relative_imports_are_resolved_from_packages_too() -> None:
    """One dot in an `__init__` means the package itself, in a module the package around it."""
    package = Module("forge_otel.web", "from .router import x\nfrom ..keys import y", is_package=True)
    module = Module("forge_otel.web.health", "from . import router\nfrom ..keys import y")
    known = {"forge_otel.web.router", "forge_otel.keys"}
    for source in (package, module):
        assert [found.target for found in imports_of(source, known)] == ["forge_otel.web.router", "forge_otel.keys"]


def test_a_bare_import_loads_nothing_optional() -> None:
    """`import forge_otel` must work, and stay quick, with the plain dependencies only."""
    code = "import sys, forge_otel; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert PACKAGE in loaded
    assert loaded.isdisjoint(NOT_LOADED_BY_BARE_IMPORT), loaded.intersection(NOT_LOADED_BY_BARE_IMPORT)


def test_the_prose_is_plain() -> None:
    """No sentence in the package, the documents or the README has a habit of `scripts/dialect.py`."""
    paths = [ROOT / name for name in dialect.PROSE]
    assert all(path.exists() for path in paths)
    assert [f"{found.path}:{found.line}: {found.habit}" for found in dialect.findings(paths)] == []


def test_a_habit_is_found(tmp_path: Path) -> None:
    """In docstrings, comments, messages and documents, but not in code or in backticks."""
    module, page = tmp_path / "a.py", tmp_path / "a.md"
    module.write_text('"""What nobody asks."""\nnobody = 1  # until somebody waits\nprint("it was told so")\n')
    page.write_text("Whoever reads `whoever` stops.\n")
    assert [(found.path.name, found.line) for found in dialect.findings([tmp_path])] == [
        ("a.md", 1),
        ("a.py", 2),
        ("a.py", 1),
        ("a.py", 1),
        ("a.py", 3),
    ]


def test_files_name_no_machine_and_no_registry() -> None:
    """Committed files name no path of this machine and no host of a package registry."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        pytest.skip("not a git clone")
    paths = [ROOT / name for name in answer.stdout.split("\0") if name]
    assert paths
    assert [fault for path in paths if path.is_file() for fault in foreign_words(path.read_bytes(), path)] == []


def test_foreign_words_are_seen(tmp_path: Path) -> None:
    """The other test can fail."""
    assert foreign_words(f"see {ROOT}/x".encode(), tmp_path)
    assert foreign_words(b"https://%s/simple" % b".".join([b"pypi", b"org"]), tmp_path)
    assert not foreign_words(b"/usr/bin/python3 or " + b"/".join([b"examples", b"work", b"a"]), tmp_path)


def foreign_words(content: bytes, path: Path) -> list[str]:
    """Machine paths and registry hosts in a file."""
    found = re.findall("|".join([re.escape(str(ROOT)), *FOREIGN]).encode(), content)
    return [f"{path}: {word.decode()}" for word in found]
