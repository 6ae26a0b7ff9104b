"""Loader of adapters by URL scheme: `redis://…` is opened by `stores/redis/store.py`.

An adapter is a module or folder named after its scheme; there is no registry. A third party's package registers an
entry point named after its scheme, in the group `forge_otel.stores` (`.vector_stores`, `.sinks`, `.embedders`).
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, Final, cast
from urllib.parse import urlsplit

from forge_otel._internal.env import mask_url
from forge_otel.errors import ConfigurationError

__all__ = ["load"]

# Schemes whose module has another name, relative to the package of the adapters.
_MODULES: Final = {
    "stores": {"redis": "redis.store", "rediss": "redis.store", "unix": "redis.store"},
    "vector_stores": {"vectors": "in_process"},
    "sinks": {"file": "files.sink", "postgresql": "sql", "s3": "s3.sink", "sqlite": "sql"},
}


def load(package: str, url: str) -> Callable[..., Any]:
    """Return the function that opens `url`.

    Args:
        package: the package below `forge_otel` that contains the adapters, for example `"stores"`.
        url: only its scheme up to a `+` is read; the rest is up to the adapter.

    Returns:
        The module's `open_url(url, **options)`.

    Raises:
        ConfigurationError: there is no adapter for the scheme.
        MissingExtra: the adapter needs a package that is not installed.
    """
    scheme = urlsplit(url).scheme.partition("+")[0]
    name = f"forge_otel.{package}.{_MODULES.get(package, {}).get(scheme, scheme)}"
    # The scheme becomes part of a module's name: a dot or an underscore would reach modules that are no adapters.
    # Looked up before the import, so that an ImportError inside of an adapter is not taken for a missing adapter.
    if scheme.isidentifier() and not scheme.startswith("_") and find_spec(name) is not None:
        opener = getattr(import_module(name), "open_url", None)
        if opener is not None:
            return cast("Callable[..., Any]", opener)
    for entry_point in entry_points(group=f"forge_otel.{package}", name=scheme):
        return cast("Callable[..., Any]", entry_point.load())
    raise ConfigurationError([f"forge_otel.{package} has no adapter for {scheme + '://' if scheme else mask_url(url)}"])
