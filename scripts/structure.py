"""Reads the modules of the package as syntax trees: their imports, classes and sizes.

`tests/test_architecture.py` holds the rules over it, `scripts/figures.py` prints figures of it.
"""

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "src"
PACKAGE: Final = "forge_otel"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    text: str
    is_package: bool = False

    @functools.cached_property
    def tree(self) -> ast.Module:
        """The syntax tree of the file."""
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """The first name below the package; empty for the package itself."""
        return room_of(self.name)

    @property
    def folder(self) -> str:
        """The package that the file lies in."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

    def fault(self, line: int, text: str) -> str:
        """Return a sentence that begins with the place."""
        return f"{self.name}:{line}: {text}"


@dataclass(frozen=True)
class Surroundings:
    """The statements around an import."""

    extra: str | None = None
    in_function: bool = False
    for_types_only: bool = False
    has_fallback: bool = False

    def inside(self, node: ast.AST) -> "Surroundings":
        """Return the surroundings of the children of `node`."""
        match node:
            case ast.With():
                return replace(self, extra=needed_extra(node) or self.extra)
            case ast.If(test=test) if "TYPE_CHECKING" in ast.dump(test):
                return replace(self, for_types_only=True)
            case ast.Try(handlers=handlers) if any("ImportError" in ast.dump(handler) for handler in handlers):
                return replace(self, has_fallback=True)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return replace(self, in_function=True)
        return self


@dataclass(frozen=True)
class Imported:
    """One imported module, its line and its surroundings."""

    target: str
    line: int
    around: Surroundings


def room_of(name: str) -> str:
    """Return the first name below the package: `forge_otel.stores.redis` → `stores`."""
    return name.partition(".")[2].partition(".")[0]


@functools.cache
def package_modules(source: Path = SOURCE) -> list[Module]:
    """Return every module of the package, examples that only a wheel contains left out."""
    modules = []
    for path in sorted((source / PACKAGE).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        if not name.startswith(f"{PACKAGE}._examples"):
            modules.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return modules


def imports_of(module: Module, known: set[str]) -> Iterator[Imported]:
    """Yield all imports with their surroundings."""

    def visit(node: ast.AST, around: Surroundings) -> Iterator[Imported]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets_of(node, module, known):
                yield Imported(target, node.lineno, around)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, around.inside(node))

    yield from visit(module.tree, Surroundings())


def targets_of(node: ast.Import | ast.ImportFrom, module: Module, known: set[str]) -> list[str]:
    """Return full names of the imported modules: `from a import b` means a.b where that is a module, else a."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = module.name.split(".")
        keep = len(parents) - node.level + module.is_package
        base = ".".join([*parents[:keep], *base.split(".")]).rstrip(".")
    return [name if (name := f"{base}.{alias.name}") in known else base for alias in node.names]


def needed_extra(node: ast.With) -> str | None:
    """Return the extra in `with needs("extra"):`."""
    for item in node.items:
        match item.context_expr:
            case ast.Call(func=ast.Name(id="needs"), args=[ast.Constant(value=str(extra))]):
                return extra
    return None


def our_imports(modules: list[Module]) -> Iterator[tuple[Module, Imported]]:
    """Yield the imports of the package's own modules."""
    known = {module.name for module in modules}
    for module in modules:
        for imported in imports_of(module, known):
            if imported.target.split(".")[0] == PACKAGE:
                yield module, imported


def functions_of(module: Module) -> Iterator[Function]:
    """Yield every function and method, nested ones too."""
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def classes_of(module: Module) -> Iterator[ast.ClassDef]:
    """Yield every class, nested ones too."""
    return (node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))


def longest_chain(modules: list[Module]) -> list[str]:
    """Return the longest chain of modules in which each imports the next when it is loaded or used.

    Imports for type checkers alone are left out, because they never run. Two modules that import each other would make
    the chain endless; a rule forbids them.
    """
    edges: dict[str, set[str]] = {module.name: set() for module in modules}
    for module, imported in our_imports(modules):
        if not imported.around.for_types_only and imported.target in edges:
            edges[module.name].add(imported.target)

    @functools.cache
    def chain(name: str) -> tuple[str, ...]:
        return (name, *max((chain(target) for target in sorted(edges[name])), key=len, default=()))

    return list(max(map(chain, edges), key=len, default=()))


def is_extension_point(module: Module) -> bool:
    """Return whether the Protocols of a module are for third parties, so that one implementation of ours is enough."""
    return module.name.startswith(f"{PACKAGE}.types.")


def protocols_of(modules: list[Module]) -> dict[str, int]:
    """Return the name of each Protocol and how many classes implement it, by inheritance or by having its members.

    None of ours implements a Protocol that describes an object of another package or of the application.
    """
    members: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for module in modules:
        for node in classes_of(module):
            bases[node.name] = [_name_of(base) for base in node.bases]
            members[node.name] = _members_of(node)

    def inherited(name: str) -> set[str]:
        return members.get(name, set()).union(*(inherited(base) for base in bases.get(name, ())))

    protocols = {name for name, found in bases.items() if "Protocol" in found}
    counts = {}
    for protocol in protocols:
        wanted = inherited(protocol)
        counts[protocol] = sum(
            name not in protocols and (protocol in bases[name] or (bool(wanted) and wanted <= inherited(name)))
            for name in bases
        )
    return counts


def _name_of(base: ast.expr) -> str:
    node = base.value if isinstance(base, ast.Subscript) else base
    if isinstance(node, ast.Attribute):
        # asyncio.Protocol is a class of callbacks.
        return ast.unparse(node) if node.attr == "Protocol" else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _members_of(node: ast.ClassDef) -> set[str]:
    """Return the names of methods, of attributes in the body, and of those that methods set on `self`."""
    found = {statement.name for statement in node.body if isinstance(statement, Function)}
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and _name_of(inner.value) == "self":
            found.add(inner.attr)
    return found - {"__init__", "__slots__", "__doc__"}


def repeated_class_names(modules: list[Module]) -> dict[str, list[str]]:
    """Return the class names that more than one module defines, and these modules."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module.name)
    return {name: found for name, found in places.items() if len(found) > 1}


def ability_probes(modules: list[Module]) -> list[str]:
    """Return the places where `getattr` or `hasattr` asks one of our parts for an optional ability.

    An ability is a public member of a class in a room of adapters. Probes of other packages' objects do not count: the
    names that they ask for are not ours.
    """
    adapters = {"stores", "vector_stores", "leases", "embedders", "sinks", "database"}
    abilities = {
        member
        for module in modules
        if module.room in adapters
        for node in classes_of(module)
        for member in _members_of(node)
        if not member.startswith("_")
    } - {"name", "state", "path", "headers", "routes", "kind", "code", "close", "table", "app", "errors"}
    return [
        module.fault(node.lineno, ast.unparse(node))
        for module in modules
        if module.room != "testing"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"getattr", "hasattr"}
        and isinstance(node.args[1], ast.Constant)
        and node.args[1].value in abilities
    ]
