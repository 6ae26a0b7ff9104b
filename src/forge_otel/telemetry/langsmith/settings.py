"""LangSmith's own settings, read from its environment variables."""

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
    """Parts of a run that are not sent.

    Args:
        inputs: inputs of every run, and the messages of exceptions, which may quote them.
        outputs: outputs of every run, and the messages of exceptions.
        metadata: every attribute that the tree, token counts and costs do not need.
        error_texts: messages of exceptions; their types are sent.
    """

    inputs: bool = False
    outputs: bool = False
    metadata: bool = False
    error_texts: bool = False

    @property
    def any_content(self) -> bool:
        """Return whether texts that may quote inputs or outputs are hidden."""
        return self.inputs or self.outputs

    @property
    def any_text(self) -> bool:
        """Return whether the messages of exceptions are hidden."""
        return self.any_content or self.error_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class LangSmithOptions:
    """Destination and contents of runs.

    Args:
        api_key: key of the workspace.
        endpoint: base URL of the API; `/otel/v1/traces` is appended.
        project: tracing project of the runs.
        hide: parts of a run that are not sent.
        sampling_rate: fraction (0 to 1) of traces to send; decided by the trace id, for all runs of a trace alike.

    Raises:
        ConfigurationError: the endpoint is not an HTTP URL, or the rate is not between 0 and 1.
    """

    api_key: str = field(repr=False)
    endpoint: str = DEFAULT_ENDPOINT
    project: str = "default"
    hide: HideOptions = field(default_factory=HideOptions)
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        faults = []
        if urlsplit(self.endpoint).scheme not in {"http", "https"} or not urlsplit(self.endpoint).hostname:
            faults.append(f"{LangSmithEnv.ENDPOINT[0]} is not an http:// or https:// URL")
        if not 0 <= self.sampling_rate <= 1:
            faults.append(f"{LangSmithEnv.SAMPLING_RATE[0]} is {self.sampling_rate}; it must be between 0 and 1")
        if faults:
            raise ConfigurationError(faults)

    @property
    def traces_url(self) -> str:
        """The URL that spans are posted to."""
        return f"{self.endpoint.rstrip('/')}/otel/v1/traces"

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, error_texts: bool = True) -> Self | None:
        """Read the `LANGSMITH_*` variables, or the `LANGCHAIN_*` variables that they replace.

        Args:
            error_texts: whether messages of exceptions may be sent if the variables allow it.

        Returns:
            None without a key, or if `LANGSMITH_TRACING` switches tracing off.

        Raises:
            ConfigurationError: a value is invalid.
        """
        api_key = _first(environ, LangSmithEnv.API_KEY)
        if not api_key or _first(environ, LangSmithEnv.TRACING).lower() in {"0", "false", "no", "off"}:
            return None
        rate = _first(environ, LangSmithEnv.SAMPLING_RATE)
        try:
            sampling_rate = float(rate or 1)
        except ValueError as exc:
            raise ConfigurationError([f"{LangSmithEnv.SAMPLING_RATE[0]}={rate[:32]!r} is not a number"]) from exc
        return cls(
            api_key=api_key,
            endpoint=_first(environ, LangSmithEnv.ENDPOINT) or DEFAULT_ENDPOINT,
            project=_first(environ, LangSmithEnv.PROJECT) or "default",
            hide=HideOptions(
                inputs=_is_on(environ, LangSmithEnv.HIDE_INPUTS),
                outputs=_is_on(environ, LangSmithEnv.HIDE_OUTPUTS),
                metadata=_is_on(environ, LangSmithEnv.HIDE_METADATA),
                error_texts=not error_texts,
            ),
            sampling_rate=sampling_rate,
        )


def is_sampled(trace_id: int, rate: float) -> bool:
    """Return whether a trace is in the sent fraction; every process decides alike."""
    if rate >= 1:
        return True
    # Hashed, because OpenTelemetry's samplers compare the bits of the id itself: sampling what they let through by the
    # same bits again would keep all of it or nothing.
    digest = hashlib.blake2b(trace_id.to_bytes(16, "big"), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big") < int(rate * (1 << 8 * _HASH_BYTES))


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _is_on(environ: Mapping[str, str], names: tuple[str, ...]) -> bool:
    # Any value but a clear no hides: a misspelt yes must not publish.
    return _first(environ, names).lower() not in {"", "0", "false", "no", "off"}
