"""Settings of the runtime: the environment variable `FORGE_X` sets the field `x`.

`OTEL_*` and `LANGSMITH_*` variables keep their meaning and are read by the SDKs that define them.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from forge_otel._internal.env import choices, is_optional, mask_url, misspelt, parse
from forge_otel.errors import ConfigurationError
from forge_otel.pricing import ModelPrice, parse_prices

__all__ = ["DEFAULT_DATABASE_URL", "DEFAULT_VECTOR_URL", "Settings", "mask_url"]

PREFIX: Final = "FORGE_"
DEFAULT_DATABASE_URL: Final = "sqlite+aiosqlite:///./.forge/forge.db"
DEFAULT_VECTOR_URL: Final = "vectors://"
_PARSERS: Final[Mapping[Any, Callable[[str], Any]]] = {Mapping[str, ModelPrice]: parse_prices}
_MAX_COMPONENT_TYPES: Final = 20
_MIN_SECRET_CHARS: Final = 16
_COMPONENT_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Configuration of a Forge; the defaults need no server.

    Args:
        cache_url: store of exact answers: `memory://` or `redis://host:6379/0`.
        cache_secret: key that authenticates cache entries; all processes that share a Redis need the same one.
        cache_ttl_s: TTL of an exact answer in seconds; None keeps it until it is evicted or invalidated.
        cache_max_bytes: maximum size of the memory cache.
        cache_max_entry_bytes: size above which an answer is not cached.
        cache_near_max_bytes: maximum size of the near cache, an in-process copy of what was read from Redis that is
            invalidated by every change; None disables it.
        cache_near_max_stale_s: maximum age of near hits in seconds while the connection to Redis is silent.
        vector_url: index of free text: `vectors://`, `vectors://./file.db` or `qdrant://host:6333`; None disables the
            semantic cache.
        embedder_url: embedder of free text: `hashing://` or `openai://text-embedding-3-small`.
        semantic_threshold: minimum cosine similarity of two wordings that share an answer.
        semantic_thresholds: the same by component type, as in `button=0.95,card=0.9`.
        semantic_ttl_s: TTL in seconds of an answer for similar wordings.
        pattern_ttl_s: TTL of a pattern in seconds.
        archive_url: archive of artifacts: `file://./folder` or `s3://bucket`; None disables it.
        database_url: SQLAlchemy URL of an async driver; None disables the database.
        retention_days: days until generations, their costs and figures are deleted from the database, and artifacts
            from a `file://` archive; None keeps them forever.
        database_drain_above: number of queued records above which a separate low-priority process writes them to
            PostgreSQL; None leaves it to the service's own process.
        outbox_dir: folder of the crash-safe journal; None keeps queued records in memory only.
        outbox_durability: what a record survives once its caller has the answer: `kill-safe` the death of the process
            at any moment, `power-safe` a power cut as well, at the cost of a disk flush per commit, `memory` nothing.
        outbox_when_slow: policy for callers while the journal takes more than 1 s: `answer` although their record is
            only in memory, `wait` until it is on disk, `refuse` with 503; unset waits if `power-safe`, else answers.
        outbox_max_bytes: size of the journal above which new records are dropped and counted.
        trace_spool_dir: folder of spans that LangSmith has not accepted yet; None keeps them in memory only.
        trace_spool_max_bytes: size of the spool above which new spans are dropped and counted.
        trace_spool_max_age_s: age in seconds above which a span is no longer sent.
        trace_sample_rate: fraction (0 to 1) of ordinary traces to export; errors, fallbacks, slow and expensive traces
            are always exported.
        trace_slow_s: duration in seconds from which a request or job is slow; None disables the rule.
        trace_expensive_usd: cost of model calls from which a trace is expensive; None disables the rule.
        trace_buffer_max_bytes: size of buffered spans above which the oldest trace is sampled before its end.
        admin_token: token for the dashboard, its API and `/health` details; None disables them.
        open_metrics: serve `/metrics` without a token.
        pipeline_version: part of every cache key; change it when the pipeline produces other answers.
        component_types: accepted component types, at most 20; empty accepts all.
        critical_services: services without which `/readyz` fails: `redis`, `archive`, `database`, or a guarded service
            such as `openai`; all others are optional.
        generation_timeout_s: time limit of a full generation in seconds.
        single_flight_lease_s: seconds without a renewal after which another process takes over a generation; None lets
            each process generate independently.
        max_body_bytes: size of a request body above which it is rejected with 413.
        capture_content: record inputs and outputs of decorated functions on their spans.
        budget_usd: spending limit of all callers together per UTC day; None is unlimited, as for those below.
        budget_usd_tenant: spending limit of a tenant per UTC day.
        budget_usd_user: spending limit of a user per UTC day.
        budget_usd_session: spending limit of a session per UTC day.
        budget_tokens: token limit of all callers together per UTC day.
        budget_tokens_tenant: token limit of a tenant per UTC day.
        budget_tokens_user: token limit of a user per UTC day.
        budget_tokens_session: token limit of a session per UTC day.
        budget_mode: above a limit `refuse` answers 429, `warn` answers normally and counts it.
        budget_reserve_usd: maximum cost of one generation, reserved while it runs.
        budget_reserve_tokens: maximum tokens of one generation, reserved while it runs.
        prices: model name to price; overrides the built-in price table.
        shutdown_timeout_s: time limit of closing in seconds, also while services are down.
        freeze_heap: exclude the objects of the start-up from garbage collection, whose full collections stop a service
            with many packages for 0.1 s and more; for processes that only serve.

    Raises:
        ConfigurationError: lists every fault.
    """

    cache_url: str = "memory://"
    cache_secret: str | None = field(default=None, repr=False)
    cache_ttl_s: float | None = None
    cache_max_bytes: int = 256 * 2**20
    cache_max_entry_bytes: int = 8 * 2**20
    cache_near_max_bytes: int | None = None
    cache_near_max_stale_s: float = 2.0
    vector_url: str | None = DEFAULT_VECTOR_URL
    embedder_url: str = "hashing://"
    semantic_threshold: float = 0.92
    semantic_thresholds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    semantic_ttl_s: float = 24 * 3600.0
    pattern_ttl_s: float = 3600.0
    archive_url: str | None = "file://./.forge/artifacts"
    database_url: str | None = DEFAULT_DATABASE_URL
    retention_days: float | None = 90.0
    database_drain_above: int | None = 2_000
    outbox_dir: str | None = "./.forge/outbox"
    outbox_durability: Literal["kill-safe", "power-safe", "memory"] = "kill-safe"
    outbox_when_slow: Literal["answer", "wait", "refuse"] | None = None
    outbox_max_bytes: int = 2 * 2**30
    trace_spool_dir: str | None = "./.forge/spool"
    trace_spool_max_bytes: int = 256 * 2**20
    trace_spool_max_age_s: float = 24 * 3600.0
    trace_sample_rate: float = 1.0
    trace_slow_s: float | None = 90.0
    trace_expensive_usd: float | None = 1.0
    trace_buffer_max_bytes: int = 64 * 2**20
    admin_token: str | None = field(default=None, repr=False)
    open_metrics: bool = False
    pipeline_version: str = "1"
    component_types: tuple[str, ...] = ()
    critical_services: tuple[str, ...] = ()
    generation_timeout_s: float = 180.0
    single_flight_lease_s: float | None = 10.0
    max_body_bytes: int = 10 * 2**20
    capture_content: bool = False
    budget_usd: Decimal | None = None
    budget_usd_tenant: Decimal | None = None
    budget_usd_user: Decimal | None = None
    budget_usd_session: Decimal | None = None
    budget_tokens: int | None = None
    budget_tokens_tenant: int | None = None
    budget_tokens_user: int | None = None
    budget_tokens_session: int | None = None
    budget_mode: Literal["refuse", "warn"] = "refuse"
    budget_reserve_usd: Decimal = Decimal("0.50")
    budget_reserve_tokens: int = 50_000
    prices: Mapping[str, ModelPrice] = field(default_factory=lambda: MappingProxyType({}))
    shutdown_timeout_s: float = 5.0
    freeze_heap: bool = False

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ConfigurationError(faults)

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in _SECRETS}
        # Settings are logged, and URLs contain passwords.
        shown |= {name: mask_url(shown[name]) for name in _URLS}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the `FORGE_*` variables of `environ`; an empty value disables an optional part.

        Raises:
            ConfigurationError: lists every fault, with secrets masked.
        """
        known = {PREFIX + item.name.upper(): item for item in fields(cls)}
        faults = [misspelt(name, known) for name in environ if name.startswith(PREFIX) and name not in known]
        faults = [fault for fault in faults if fault]
        values: dict[str, Any] = {}
        for variable, item in known.items():
            if variable in environ:
                try:
                    values[item.name] = parse(item.type, environ[variable].strip(), _PARSERS)
                except (ValueError, InvalidOperation, KeyError, TypeError, AttributeError) as exc:
                    shown = environ[variable][:64] if item.repr else "***"
                    faults.append(f"{variable}={shown!r} cannot be read: {exc}")
        try:
            settings = cls(**values)
        except ConfigurationError as exc:
            # Added to the faults of parsing, so that an operator does not find them one start at a time.
            faults.extend(exc.faults)
        if faults:
            raise ConfigurationError(faults)
        return settings

    def _faults(self) -> list[str]:
        faults = [
            f"{name} {mask_url(url)!r} is not a URL; start it with a scheme such as 'redis://' or 'file://'"
            for name in _URLS
            if (url := getattr(self, name)) is not None and not url.partition("://")[1]
        ]
        faults.extend(
            f"{name} is {getattr(self, name)!r}; use one of {', '.join(words)}"
            for name, words in _CHOICES.items()
            if getattr(self, name) not in words and not (name in _OPTIONAL and getattr(self, name) is None)
        )
        if not 0 <= self.trace_sample_rate <= 1:
            faults.append(f"trace_sample_rate is {self.trace_sample_rate}; it must be a fraction from 0 to 1")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                faults.append(f"{name} is {value}; it must be above 0")
        for name in _SECRETS:
            secret = getattr(self, name)
            # A token arrives in a header, and `hmac.compare_digest` compares ASCII strings only.
            if secret is not None and not (secret.isascii() and secret.isprintable()):
                faults.append(f"{name} may hold printable ASCII characters only")
            if secret is not None and len(secret) < _MIN_SECRET_CHARS:
                faults.append(f"{name} has fewer than {_MIN_SECRET_CHARS} characters and could be guessed")
        for unit in ("usd", "tokens"):
            reserve = getattr(self, f"budget_reserve_{unit}")
            faults.extend(
                f"{name} is {getattr(self, name)}, less than budget_reserve_{unit} ({reserve}), "
                "so that every generation would be refused"
                for name in (f"budget_{unit}", *(f"budget_{unit}_{scope}" for scope in ("tenant", "user", "session")))
                if getattr(self, name) is not None and getattr(self, name) < reserve
            )
        if len(self.component_types) > _MAX_COMPONENT_TYPES:
            faults.append(f"component_types has more than {_MAX_COMPONENT_TYPES} entries; each becomes a metric label")
        faults.extend(
            f"component_types contains {name!r}; use lower-case letters, digits, '_', '.' and '-'"
            for name in self.component_types
            if not _COMPONENT_TYPE.fullmatch(name)
        )
        faults.extend(
            f"{name} is {value}; a minimum cosine similarity must be above 0 and at most 1"
            for name, value in _cosines(self).items()
            if not 0 < value <= 1
        )
        if not self.pipeline_version:
            faults.append("pipeline_version is empty; set it to any name, and change it when answers change")
        return faults


def _cosines(settings: Settings) -> dict[str, float]:
    by_type = {f"semantic_thresholds[{name!r}]": value for name, value in settings.semantic_thresholds.items()}
    return {"semantic_threshold": settings.semantic_threshold, **by_type}


_NUMERIC: Final = {int, float, int | None, float | None, Decimal, Decimal | None}

# Derived from the declarations, so that a new field needs no entry here.
_SECRETS: Final = tuple(item.name for item in fields(Settings) if not item.repr)
_URLS: Final = tuple(item.name for item in fields(Settings) if item.name.endswith("_url"))
_CHOICES: Final = {item.name: choices(item.type) for item in fields(Settings) if choices(item.type)}
_OPTIONAL: Final = {item.name for item in fields(Settings) if is_optional(item.type)}
_NUMBERS: Final = tuple(
    item.name for item in fields(Settings) if item.type in _NUMERIC and not item.name.endswith("_rate")
)
