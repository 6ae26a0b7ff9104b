"""Settings: each environment variable `FORGE_X` is the field `x`, so that code and environment say the same thing.

`OTEL_*` and `LANGSMITH_*` variables keep their own meaning and are read by the SDKs that own them.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from forge_otel._internal.env import choices, mask_url, misspelt, parse
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
    """How a Forge runs; the defaults need no server.

    Args:
        cache_url: where exact answers are kept: `memory://` or `redis://host:6379/0`.
        cache_secret: authenticates cache entries; give all processes that share a Redis the same one.
        cache_ttl_s: life of an exact answer in seconds; None keeps it until it is evicted or invalidated.
        cache_max_bytes: bound of the memory cache.
        cache_max_entry_bytes: an answer larger than this is not cached.
        cache_near_max_bytes: bound of the near cache, which keeps in this process what was read from Redis until
            somebody changes it; None switches it off.
        cache_near_max_stale_s: how old what the near cache gives may be when the connection to Redis falls silent.
        vector_url: where the vectors of free text are kept: `vectors://`, `vectors://./file.db` or
            `qdrant://host:6333`; None switches the semantic cache off.
        embedder_url: what makes vectors of text: `hashing://` or `openai://text-embedding-3-small`.
        semantic_threshold: the least cosine at which two wordings may stand for each other.
        semantic_thresholds: the same by component type, as in `button=0.95,card=0.9`.
        semantic_ttl_s: how long an answer is given to other wordings.
        pattern_ttl_s: life of a pattern.
        archive_url: where artifacts are archived: `file://./folder`; None archives nothing.
        database_url: SQLAlchemy URL of an async driver; None records nothing in a database.
        retention_days: how long generations, their costs and figures stay in the database, and artifacts in a
            `file://` archive; None keeps them for ever.
        database_drain_above: more waiting records than this are brought into PostgreSQL by a process of their own, in
            processor time that nobody else wants; None leaves it to the service's own process.
        outbox_dir: folder of the journal that outlives a crash; None keeps waiting records in memory only.
        outbox_durability: what a record outlives once its caller has the answer: `kill-safe` the death of the
            process at any moment, `power-safe` a power cut too, for a flush of the disk a commit, `memory` nothing.
        outbox_max_bytes: size of the journal above which new records are dropped and counted.
        trace_spool_dir: folder where spans wait that LangSmith has not taken; None keeps them in memory only.
        trace_spool_max_bytes: size of the spool above which new spans are dropped and counted.
        trace_spool_max_age_s: after so long a span is no longer sent.
        trace_sample_rate: share of the traces that are exported of those that nothing speaks for, 0 to 1; errors,
            fallbacks, slow and expensive ones always are.
        trace_slow_s: a request or job that takes as long is slow; None: none is.
        trace_expensive_usd: a trace whose model calls cost as much is expensive; None: none is.
        trace_buffer_max_bytes: size of the spans in memory above which the oldest trace is decided before its end.
        admin_token: opens the dashboard, its API and `/health` details; None keeps them closed.
        open_metrics: answer `/metrics` to everybody.
        pipeline_version: part of every cache key; raise it when the pipeline gives other answers.
        component_types: the types that are accepted, at most 20; empty accepts all.
        critical_services: without one of these `/readyz` says no: `redis`, `archive`, `database`, or a guarded
            service such as `openai`; all others are optional.
        generation_timeout_s: how long a full generation may take.
        single_flight_lease_s: after so long without a sign of life another process takes a generation over; None lets
            each process generate by itself.
        max_body_bytes: larger request bodies are refused with 413.
        capture_content: record inputs and outputs of decorated functions on their spans.
        budget_usd: what everybody together may spend in a UTC day; None is no limit, also for those below.
        budget_usd_tenant: what a tenant may spend in a UTC day.
        budget_usd_user: what a user may spend in a UTC day.
        budget_usd_session: what a session may spend in a UTC day.
        budget_tokens: how many tokens everybody together may use in a UTC day.
        budget_tokens_tenant: how many tokens a tenant may use in a UTC day.
        budget_tokens_user: how many tokens a user may use in a UTC day.
        budget_tokens_session: how many tokens a session may use in a UTC day.
        budget_mode: beyond a limit `refuse` answers 429, `warn` answers and counts it.
        budget_reserve_usd: what one generation costs at most; so much is set aside while it runs.
        budget_reserve_tokens: how many tokens one generation uses at most; so many are set aside while it runs.
        prices: model name to price; wins over the built-in price table.
        shutdown_timeout_s: how long closing may take, whatever is down.
        freeze_heap: keep the garbage collector away from what is there after the start: its full collections stop a
            service with many packages for a tenth of a second and more; for processes that do nothing but serve.

    Raises:
        ConfigurationError: with every fault at once.
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
        shown |= {name: mask_url(shown[name]) for name in _URLS}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the `FORGE_*` variables of `environ`; an empty value means off where off is possible.

        Raises:
            ConfigurationError: with every fault at once, secrets masked.
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
            faults.extend(exc.faults)
        if faults:
            raise ConfigurationError(faults)
        return settings

    def _faults(self) -> list[str]:
        faults = [
            f"{name} {mask_url(url)!r} is not a URL; it begins with a scheme such as 'redis://' or 'file://'"
            for name in _URLS
            if (url := getattr(self, name)) is not None and not url.partition("://")[1]
        ]
        faults.extend(
            f"{name} is {getattr(self, name)!r}; use one of {', '.join(words)}"
            for name, words in _CHOICES.items()
            if getattr(self, name) not in words
        )
        if not 0 <= self.trace_sample_rate <= 1:
            faults.append(f"trace_sample_rate is {self.trace_sample_rate}; it is a share, from 0 to 1")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                faults.append(f"{name} is {value}; it must be above 0")
        for name in _SECRETS:
            secret = getattr(self, name)
            if secret is not None and not (secret.isascii() and secret.isprintable()):
                faults.append(f"{name} may hold printable ASCII characters only")
            if secret is not None and len(secret) < _MIN_SECRET_CHARS:
                faults.append(f"{name} is shorter than {_MIN_SECRET_CHARS} characters and could be guessed")
        for unit in ("usd", "tokens"):
            reserve = getattr(self, f"budget_reserve_{unit}")
            faults.extend(
                f"{name} is {getattr(self, name)}, less than budget_reserve_{unit} ({reserve}): "
                "nothing could be generated"
                for name in (f"budget_{unit}", *(f"budget_{unit}_{scope}" for scope in ("tenant", "user", "session")))
                if getattr(self, name) is not None and getattr(self, name) < reserve
            )
        if len(self.component_types) > _MAX_COMPONENT_TYPES:
            faults.append(f"component_types has more than {_MAX_COMPONENT_TYPES} entries; each becomes a metric label")
        faults.extend(
            f"component_types holds {name!r}; use lower-case letters, digits, '_', '.' and '-'"
            for name in self.component_types
            if not _COMPONENT_TYPE.fullmatch(name)
        )
        faults.extend(
            f"{name} is {value}; a cosine that two wordings must reach lies above 0 and is at most 1"
            for name, value in _cosines(self).items()
            if not 0 < value <= 1
        )
        if not self.pipeline_version:
            faults.append("pipeline_version is empty; give it any name and change it when answers change")
        return faults


def _cosines(settings: Settings) -> dict[str, float]:
    by_type = {f"semantic_thresholds[{name!r}]": value for name, value in settings.semantic_thresholds.items()}
    return {"semantic_threshold": settings.semantic_threshold, **by_type}


_NUMERIC: Final = {int, float, int | None, float | None, Decimal, Decimal | None}

# What a field is follows from how it is declared, so that a new one needs no entry anywhere.
_SECRETS: Final = tuple(item.name for item in fields(Settings) if not item.repr)
_URLS: Final = tuple(item.name for item in fields(Settings) if item.name.endswith("_url"))
_CHOICES: Final = {item.name: choices(item.type) for item in fields(Settings) if choices(item.type)}
_NUMBERS: Final = tuple(
    item.name for item in fields(Settings) if item.type in _NUMERIC and not item.name.endswith("_rate")
)
