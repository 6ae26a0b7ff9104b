"""`forge-otel demo`: runs the shipped example under its published workload."""

import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from forge_otel.errors import needs

__all__ = ["add"]

_PACKAGE: Final = Path(__file__).parent.parent
# In an installed wheel the examples are inside the package, in a checkout next to `src/`.
_EXAMPLES: Final = (_PACKAGE / "_examples", _PACKAGE.parent.parent / "examples")


def add(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser("demo", help="run the example service under its published workload")
    demo.add_argument("--once", action="store_true", help="exit after the results instead of serving until Ctrl-C")
    demo.set_defaults(command=_demo)


def _demo(arguments: Namespace) -> int:
    # In front, so that no installed package of the same name is run.
    sys.path[:0] = [str(folder) for folder in _EXAMPLES if (folder / "componentforge").is_dir()][:1]
    with needs("demo"):
        demo = import_module("componentforge.demo")
    return int(demo.main(once=arguments.once))
