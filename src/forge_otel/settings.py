"""Settings: each environment variable ``FORGE_X`` is the field ``x``, so that code and environment say the same thing.

``OTEL_*`` and ``LANGSMITH_*`` variables keep their own meaning and are read by the SDKs that own them.
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Self

from forge_otel.errors import ConfigurationError
from forge_otel.pricing import ModelPrice

__all__ = ["DEFAULT_DATABASE_URL", "Settings", "mask_url"]

PREFIX = "FORGE_"
DEFAULT_DATABASE_URL = "sqlite+aiosqlite:///./.forge/forge.db"
_MAX_COMPONENT_TYPES = 20
_MIN_TOKEN_CHARS = 16
_COMPONENT_TYPE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a Forge runs; the defaults need no server.

    Args:
        cache_url: where exact answers are kept: ``memory://`` or ``redis://host:6379/0``.
        cache_secret: authenticates cache entries; give all processes that share a Redis the same one.
        cache_ttl_s: life of an exact answer in seconds; None keeps it until it is evicted or invalidated.
        cache_max_bytes: bound of the memory cache.
        cache_max_entry_bytes: an answer larger than this is not cached.
        archive_url: where artifacts are archived: ``file://./folder``; None archives nothing.
        database_url: SQLAlchemy URL of an async driver; None records nothing in a database.
        outbox_dir: folder of the journal that outlives a crash; None keeps waiting records in memory only.
        outbox_max_bytes: size of the journal above which new records are dropped and counted.
        admin_token: opens the dashboard, its API and ``/health`` details; None keeps them closed.
        open_metrics: answer ``/metrics`` to everybody.
        pipeline_version: part of every cache key; raise it when the pipeline gives other answers.
        component_types: the types that are accepted, at most 20; empty accepts all.
        generation_timeout_s: how long a full generation may take.
        max_body_bytes: larger request bodies are refused with 413.
        capture_content: record inputs and outputs of decorated functions on their spans.
        prices: model name to price; wins over the built-in price table.
        shutdown_timeout_s: how long closing may take, whatever is down.

    Raises:
        ConfigurationError: with every fault at once.
    """

    cache_url: str = "memory://"
    cache_secret: str | None = field(default=None, repr=False)
    cache_ttl_s: float | None = None
    cache_max_bytes: int = 256 * 2**20
    cache_max_entry_bytes: int = 8 * 2**20
    archive_url: str | None = "file://./.forge/artifacts"
    database_url: str | None = DEFAULT_DATABASE_URL
    outbox_dir: str | None = "./.forge/outbox"
    outbox_max_bytes: int = 2 * 2**30
    admin_token: str | None = field(default=None, repr=False)
    open_metrics: bool = False
    pipeline_version: str = "1"
    component_types: tuple[str, ...] = ()
    generation_timeout_s: float = 180.0
    max_body_bytes: int = 10 * 2**20
    capture_content: bool = False
    prices: Mapping[str, ModelPrice] = field(default_factory=lambda: MappingProxyType({}))
    shutdown_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ConfigurationError(faults)

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in _SECRETS}
        for name in _URLS:
            shown[name] = mask_url(shown[name])
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the ``FORGE_*`` variables of `environ`; an empty value means off where off is possible.

        Raises:
            ConfigurationError: with every fault at once, secrets masked.
        """
        known = {PREFIX + item.name.upper(): item.name for item in fields(cls)}
        faults = [_misspelt(name, known) for name in environ if name.startswith(PREFIX) and name not in known]
        faults = [fault for fault in faults if fault]
        values: dict[str, Any] = {}
        for variable, name in known.items():
            if variable in environ:
                try:
                    values[name] = _PARSERS.get(name, _text)(environ[variable].strip())
                except (ValueError, InvalidOperation, KeyError, TypeError, AttributeError) as exc:
                    shown = "***" if name in _SECRETS else environ[variable][:64]
                    faults.append(f"{variable}={shown!r} cannot be read: {exc}")
        try:
            settings = cls(**values)
        except ConfigurationError as exc:
            faults.extend(exc.faults)
        if faults:
            raise ConfigurationError(faults)
        return settings

    def _faults(self) -> list[str]:
        faults = [
            f"{name} {mask_url(url)!r} is not a URL; it begins with a scheme such as {example!r}"
            for name, example in _URLS.items()
            if (url := getattr(self, name)) is not None and not url.partition("://")[1]
        ]
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                faults.append(f"{name} is {value}; it must be above 0")
        for name in ("admin_token", "cache_secret"):
            secret = getattr(self, name)
            if secret is not None and not (secret.isascii() and secret.isprintable()):
                faults.append(f"{name} may hold printable ASCII characters only")
        if self.admin_token is not None and len(self.admin_token) < _MIN_TOKEN_CHARS:
            faults.append(f"admin_token is shorter than {_MIN_TOKEN_CHARS} characters and could be guessed")
        if self.cache_secret is not None and len(self.cache_secret) < _MIN_TOKEN_CHARS:
            faults.append(f"cache_secret is shorter than {_MIN_TOKEN_CHARS} characters and could be guessed")
        if len(self.component_types) > _MAX_COMPONENT_TYPES:
            faults.append(f"component_types has more than {_MAX_COMPONENT_TYPES} entries; each becomes a metric label")
        faults.extend(
            f"component_types holds {name!r}; use lower-case letters, digits, '_', '.' and '-'"
            for name in self.component_types
            if not _COMPONENT_TYPE.fullmatch(name)
        )
        if not self.pipeline_version:
            faults.append("pipeline_version is empty; give it any name and change it when answers change")
        return faults


def mask_url(url: str | None) -> str | None:
    """Return `url` without the password and query that it may carry."""
    if url is None:
        return None
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    place, _, query = rest.partition("?")
    # Up to the last one, because some drivers take a password with a slash or an @ in it.
    _, at, shown = place.rpartition("@")
    return f"{scheme}://{'***@' if at else ''}{shown}{'?***' if query else ''}"


def _misspelt(name: str, known: Mapping[str, str]) -> str:
    """Name a variable that is nearly one of ours; others with our prefix may belong to somebody else."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"{name} is not a setting; did you mean {nearest[0]}?" if nearest else ""


def _text(text: str) -> str | None:
    return text or None


def _boolean(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError("say 1 or 0")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _optional_float(text: str) -> float | None:
    return float(text) if text else None


def _prices(text: str) -> Mapping[str, ModelPrice]:
    """Read ``{"model": {"input_usd": "2.5", "output_usd": "10"}}``, USD per million tokens."""
    table = json.loads(text or "{}")
    return MappingProxyType(
        {
            model: ModelPrice(**{name: Decimal(str(usd)) for name, usd in price.items()})
            for model, price in table.items()
        }
    )


_SECRETS = frozenset({"admin_token", "cache_secret"})
_URLS = {"cache_url": "redis://", "archive_url": "file://", "database_url": "sqlite+aiosqlite://"}
_POSITIVE = (
    "cache_ttl_s",
    "cache_max_bytes",
    "cache_max_entry_bytes",
    "outbox_max_bytes",
    "generation_timeout_s",
    "max_body_bytes",
    "shutdown_timeout_s",
)
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "cache_ttl_s": _optional_float,
    "cache_max_bytes": int,
    "cache_max_entry_bytes": int,
    "outbox_max_bytes": int,
    "open_metrics": _boolean,
    "component_types": _names,
    "generation_timeout_s": float,
    "max_body_bytes": int,
    "capture_content": _boolean,
    "prices": _prices,
    "shutdown_timeout_s": float,
    "pipeline_version": str,
    "cache_url": str,
}
