"""URL scheme → module: `redis://…` is opened by `stores/redis/store.py`.

An adapter is one new module, or folder, named after its scheme: the loader finds it without a registry. A third party's
package registers an entry point in the group `forge_otel.stores` (`.vector_stores`, `.sinks`, `.embedders`) named after
its scheme.
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

# Schemes whose module has another name.
_MODULES: Final = {
    "stores": {"redis": "redis.store", "rediss": "redis.store", "unix": "redis.store"},
    "vector_stores": {"vectors": "in_process"},
    "sinks": {"file": "files.sink", "postgresql": "sql", "s3": "s3.sink", "sqlite": "sql"},
}


def load(room: str, url: str) -> Callable[..., Any]:
    """Return the function that opens `url`.

    Args:
        room: the package below `forge_otel` to look in, for example `"stores"`.
        url: only its scheme is read, up to a `+`; the module interprets the rest.

    Returns:
        The module's `open_url(url, **options)`.

    Raises:
        ConfigurationError: no adapter for the scheme.
        MissingExtra: the adapter needs a package that is not installed.
    """
    scheme = urlsplit(url).scheme.partition("+")[0]
    name = f"forge_otel.{room}.{_MODULES.get(room, {}).get(scheme, scheme)}"
    if scheme.isidentifier() and not scheme.startswith("_") and find_spec(name) is not None:
        opener = getattr(import_module(name), "open_url", None)
        if opener is not None:
            return cast("Callable[..., Any]", opener)
    for entry_point in entry_points(group=f"forge_otel.{room}", name=scheme):
        return cast("Callable[..., Any]", entry_point.load())
    raise ConfigurationError([f"nothing in forge_otel.{room} opens {scheme + '://' if scheme else mask_url(url)}"])
