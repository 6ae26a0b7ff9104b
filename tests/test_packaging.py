"""The built wheel: what is in it, and what it does where nothing but its plain dependencies is installed.

Without network: the wheel is built by the installed hatchling, and the bare environment is made of links to the
installed files of the plain dependencies and theirs, and of nothing else.
"""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import forge_otel

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "forge_otel"
EXAMPLE = ROOT / "examples" / "componentforge"

IMPORT_EVERYTHING = """
import importlib, pkgutil
import forge_otel
from forge_otel.errors import MissingExtra

skipped = ("forge_otel._examples", "forge_otel.database.migrations")
def report(name):
    print("fault", name)
for module in pkgutil.walk_packages(forge_otel.__path__, "forge_otel.", onerror=report):
    if module.name.startswith(skipped):
        continue
    try:
        importlib.import_module(module.name)
    except MissingExtra as missing:
        print("extra", module.name, missing.extra)
    except Exception as error:
        print("fault", module.name, repr(error))
    else:
        print("import", module.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Paths in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and its plain dependencies."""
    environment = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in plain_dependencies():
        link_distribution(name, site)
    return environment / "bin" / "python"


def plain_dependencies() -> set[str]:
    """The distributions that a bare install brings, those of the dependencies included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            needed = map(Requirement, distribution(requirement.name).requires or ())
            waiting += [one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {canonicalize_name(name) for name, _ in seen}


def link_distribution(name: str, site: Path) -> None:
    """Link each installed file of a distribution into another site-packages."""
    installed = distribution(name)
    for file in installed.files or ():
        if ".." in file.parts or file.suffix == ".pyc":
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(str(installed.locate_file(file))).resolve())


def files_below(folder: Path) -> set[str]:
    """Relative paths of the files that belong to a source folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def run_bare(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the bare Python, away from the source tree and from what the caller's environment adds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), "-I", *arguments]
    return subprocess.run(command, cwd=python.parent, env=environment, capture_output=True, text=True, check=False)


def test_wheel_holds_every_file_of_the_package(names: set[str]) -> None:
    """Modules, py.typed, static files, migrations: whatever stands in the source is shipped."""
    wanted = {f"forge_otel/{name}" for name in files_below(PACKAGE)}
    assert "forge_otel/py.typed" in names
    assert wanted <= names


def test_wheel_holds_the_example(names: set[str]) -> None:
    """`forge-otel demo` runs it from there."""
    wanted = {f"forge_otel/_examples/componentforge/{name}" for name in files_below(EXAMPLE)}
    assert wanted
    assert wanted <= names


def test_wheel_holds_nothing_else(names: set[str]) -> None:
    """No tests, no scripts, no leftovers."""
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"forge_otel"}
    shipped = {f"forge_otel/{name}" for name in files_below(PACKAGE)}
    shipped |= {f"forge_otel/_examples/componentforge/{name}" for name in files_below(EXAMPLE)}
    assert {name for name in names - shipped if ".dist-info/" not in name} == set()


def test_wheel_carries_licence_and_command(wheel: Path, names: set[str]) -> None:
    """The wheel has its entry points and its licence."""
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    entry_points = licence.replace("licenses/LICENSE", "entry_points.txt")
    with zipfile.ZipFile(wheel) as archive:
        assert "forge-otel = forge_otel.cli:main" in archive.read(entry_points).decode()


def test_bare_install_is_bare(bare_python: Path) -> None:
    """The environment of the tests below has none of the optional packages."""
    for optional in ("redis", "sqlmodel", "fastapi", "openai"):
        assert run_bare(bare_python, "-c", f"import {optional}").returncode != 0


def test_every_module_imports_or_names_its_extra(bare_python: Path) -> None:
    """Without the extras nothing fails in another way than by saying which one to install."""
    answer = run_bare(bare_python, "-c", IMPORT_EVERYTHING)
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert "import forge_otel.errors" in lines
    assert [line for line in lines if line.startswith("fault")] == []


def test_bare_install_has_a_working_command(bare_python: Path) -> None:
    """`forge-otel --help` needs no extra."""
    code = "import sys; from forge_otel.cli import main; sys.argv = ['forge-otel', '--help']; sys.exit(main())"
    answer = run_bare(bare_python, "-c", code)
    assert answer.returncode == 0, answer.stderr
    assert "usage: forge-otel" in answer.stdout


def test_the_package_has_its_version() -> None:
    """The one of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert forge_otel.__version__ == project["version"]
