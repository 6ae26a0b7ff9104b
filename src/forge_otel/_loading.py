"""URL scheme → module: ``redis://…`` is opened by ``stores/redis.py``.

The convention makes a new store, sink or embedder one new file. A third party's package registers an entry point in
the group ``forge_otel.stores`` (``.sinks``, ``.embedders``) named after its scheme.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, cast
from urllib.parse import urlsplit

from forge_otel.errors import ConfigurationError
from forge_otel.settings import mask_url

__all__ = ["load"]

_ALIASES = {"file": "files", "postgresql": "sql", "rediss": "redis", "sqlite": "sql", "unix": "redis"}


def load(room: str, url: str) -> Callable[..., Any]:
    """Find what opens `url`.

    Args:
        room: the package below ``forge_otel`` to look in, for example ``"stores"``.
        url: only its scheme is looked at; what follows a ``+`` in the scheme is the module's own business.

    Returns:
        The module's ``open_url(url, **options)``.

    Raises:
        ConfigurationError: nothing knows the scheme.
        MissingExtra: the module needs a package that is not installed.
    """
    scheme = urlsplit(url).scheme.partition("+")[0]
    name = f"forge_otel.{room}.{_ALIASES.get(scheme, scheme)}"
    if scheme.isidentifier() and not scheme.startswith("_") and find_spec(name) is not None:
        opener = getattr(import_module(name), "open_url", None)
        if opener is not None:
            return cast("Callable[..., Any]", opener)
    for entry_point in entry_points(group=f"forge_otel.{room}", name=scheme):
        return cast("Callable[..., Any]", entry_point.load())
    raise ConfigurationError([f"nothing in forge_otel.{room} opens {scheme + '://' if scheme else mask_url(url)}"])
