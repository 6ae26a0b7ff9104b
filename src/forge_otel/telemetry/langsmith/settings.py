"""What LangSmith's own environment variables say."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

from forge_otel.errors import ConfigurationError
from forge_otel.telemetry.langsmith.names import LangSmithEnv

__all__ = ["DEFAULT_ENDPOINT", "HideOptions", "LangSmithOptions", "is_sampled"]

DEFAULT_ENDPOINT: Final = "https://api.smith.langchain.com"
_HASH_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HideOptions:
    """What LangSmith must not see.

    Args:
        inputs: of any run; the texts of exceptions too, which quote them.
        outputs: the same for outputs.
        metadata: whatever is not needed to draw the tree and to count tokens and money.
        error_texts: what exceptions say; their kinds stay.
    """

    inputs: bool = False
    outputs: bool = False
    metadata: bool = False
    error_texts: bool = False

    @property
    def any_content(self) -> bool:
        """Whether texts that may quote contents have to go."""
        return self.inputs or self.outputs

    @property
    def any_text(self) -> bool:
        """Whether the texts of exceptions have to go."""
        return self.any_content or self.error_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class LangSmithOptions:
    """Where runs go and what of them.

    Args:
        api_key: of the workspace.
        endpoint: the API's base URL; `/otel/v1/traces` is appended.
        project: the tracing project that runs appear in.
        hidden: what is left out of them.
        sampling_rate: the share of traces that is sent, 0 to 1; decided by the trace id, so that all of one trace is.

    Raises:
        ConfigurationError: the endpoint is no HTTP URL, or the rate is no share.
    """

    api_key: str = field(repr=False)
    endpoint: str = DEFAULT_ENDPOINT
    project: str = "default"
    hidden: HideOptions = field(default_factory=HideOptions)
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        faults = []
        if urlsplit(self.endpoint).scheme not in {"http", "https"} or not urlsplit(self.endpoint).hostname:
            faults.append(f"{LangSmithEnv.ENDPOINT[0]} is no http:// or https:// URL")
        if not 0 <= self.sampling_rate <= 1:
            faults.append(f"{LangSmithEnv.SAMPLING_RATE[0]} is {self.sampling_rate}; it must be between 0 and 1")
        if faults:
            raise ConfigurationError(faults)

    @property
    def traces_url(self) -> str:
        """Where spans are posted."""
        return f"{self.endpoint.rstrip('/')}/otel/v1/traces"

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, error_texts: bool = True) -> Self | None:
        """Read the `LANGSMITH_*` variables, or the `LANGCHAIN_*` ones that they replace.

        Args:
            error_texts: whether what exceptions say may be sent, where the variables do not forbid it.

        Returns:
            None where there is no key, or where tracing is switched off by name.

        Raises:
            ConfigurationError: a value cannot be used.
        """
        api_key = _first(environ, LangSmithEnv.API_KEY)
        if not api_key or _first(environ, LangSmithEnv.TRACING).lower() in {"0", "false", "no", "off"}:
            return None
        rate = _first(environ, LangSmithEnv.SAMPLING_RATE)
        try:
            sampling_rate = float(rate or 1)
        except ValueError as exc:
            raise ConfigurationError([f"{LangSmithEnv.SAMPLING_RATE[0]}={rate[:32]!r} is no number"]) from exc
        return cls(
            api_key=api_key,
            endpoint=_first(environ, LangSmithEnv.ENDPOINT) or DEFAULT_ENDPOINT,
            project=_first(environ, LangSmithEnv.PROJECT) or "default",
            hidden=HideOptions(
                inputs=_is_on(environ, LangSmithEnv.HIDE_INPUTS),
                outputs=_is_on(environ, LangSmithEnv.HIDE_OUTPUTS),
                metadata=_is_on(environ, LangSmithEnv.HIDE_METADATA),
                error_texts=not error_texts,
            ),
            sampling_rate=sampling_rate,
        )


def is_sampled(trace_id: int, rate: float) -> bool:
    """Return whether a trace is among the share that is sent; every process says the same of it.

    The id is hashed, because OpenTelemetry's samplers compare its bits themselves: of what they let through, another
    share by the same bits would be all or nothing.
    """
    if rate >= 1:
        return True
    digest = hashlib.blake2b(trace_id.to_bytes(16, "big"), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big") < int(rate * (1 << 8 * _HASH_BYTES))


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _is_on(environ: Mapping[str, str], names: tuple[str, ...]) -> bool:
    # Anything but a clear no hides: a misspelt yes must not publish.
    return _first(environ, names).lower() not in {"", "0", "false", "no", "off"}
