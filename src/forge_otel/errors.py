"""The error tree: each message says what happened and what to do, the facts are attributes.

ForgeError
├── ConfigurationError        settings are wrong; every fault is listed at once
│   └── MissingExtra          an optional package is not installed
├── NotOpen                   a call needs an open Forge
├── BadRequest           400  the request cannot be understood or is not allowed
│   ├── NotFound         404
│   └── PayloadTooLarge  413
├── Unauthorized         401
├── BudgetExceeded       429  the day's money or tokens are used up
├── ServiceUnavailable   503  a service that the answer needs is down
│   ├── CircuitOpen      503  its breaker refuses calls for now
│   ├── Overloaded       503  as many calls to it as it may get are already in flight
│   └── ServiceTimeout   503  it did not answer in time (also a TimeoutError)
├── GenerationTimeout    504  the pipeline did not finish in time
├── GenerationFailed     503  the generation that this call waited for failed, and is not repeated by each that waited
└── Rejected                  a sink can never store this record

`status`, `code` and `title` become the members of a problem+json answer (RFC 9457); `code` is stable.
`remedy` says what the reader should do. It is not sent: the message, as `detail`, says the same about the case at
hand. The catalog of all errors is `docs/errors.md`, which `scripts/docs.py` writes from this tree.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = [
    "BadRequest",
    "BudgetExceeded",
    "CircuitOpen",
    "ConfigurationError",
    "ForgeError",
    "GenerationFailed",
    "GenerationTimeout",
    "MissingExtra",
    "NotFound",
    "NotOpen",
    "Overloaded",
    "PayloadTooLarge",
    "Rejected",
    "ServiceTimeout",
    "ServiceUnavailable",
    "Unauthorized",
    "needs",
]


class ForgeError(Exception):
    """The base of every error that forge-otel raises on purpose."""

    status = 500
    code = "internal"
    title = "Internal error"
    remedy = "Look up the trace id of the answer in the service's log and traces, where the reason is."
    is_personal = False
    """Whether it says something about the caller alone, so that others who wait for the same answer try themselves."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConfigurationError(ForgeError):
    """Settings are wrong.

    Args:
        faults: one plain sentence a fault; secrets are masked before they get here.
    """

    code = "configuration"
    title = "Configuration error"
    remedy = "Correct every setting that the message lists, then start again."

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        count = len(self.faults)
        super().__init__(f"{count} setting{'s' if count != 1 else ''} cannot be used:\n{lines}")


class MissingExtra(ConfigurationError):
    """An optional package is not installed.

    Args:
        extra: the name of the extra that brings it.
        package: the module that could not be imported.
    """

    code = "missing_extra"
    remedy = "Install the extra that the message names, or change the setting that asks for it."

    def __init__(self, extra: str, *, package: str) -> None:
        self.extra = extra
        self.package = package
        super().__init__([f"the package {package!r} is not installed: pip install 'forge-otel[{extra}]'"])


class NotOpen(ForgeError):
    """A call needs an open Forge; enter it with `async with forge:` or add ForgeMiddleware to the application."""

    code = "not_open"
    title = "Forge is not open"
    remedy = "Make the call inside `async with forge:`, or add ForgeMiddleware to the application."


class BadRequest(ForgeError):
    """The request cannot be understood or is not allowed; nothing was stored."""

    status = 400
    code = "bad_request"
    title = "Bad request"
    remedy = "Change the request as the message says, because the same one is refused again."


class NotFound(BadRequest):
    """The thing asked for does not exist."""

    status = 404
    code = "not_found"
    title = "Not found"
    remedy = "Check the name or id in the request, and that what it names was not removed since."


class PayloadTooLarge(BadRequest):
    """The request body is larger than the limit."""

    status = 413
    code = "payload_too_large"
    title = "Payload too large"
    remedy = "Send a smaller body, or have the operator raise `FORGE_MAX_BODY_BYTES`."


class Unauthorized(ForgeError):
    """The route needs the admin token."""

    status = 401
    code = "unauthorized"
    title = "Unauthorized"
    remedy = "Log in to the dashboard, or send the header `Authorization: Bearer <FORGE_ADMIN_TOKEN>`."


class BudgetExceeded(ForgeError):
    """The day's budget of money or tokens is used up; what is known already is still answered.

    Args:
        scope: whose budget it is: `all`, `tenant`, `user` or `session`.
        retry_after_s: seconds until the next UTC day.
    """

    status = 429
    code = "budget_exceeded"
    title = "Budget used up"
    remedy = "Send the same request again after `retry_after_s`, or have the operator raise `FORGE_BUDGET_…`."

    def __init__(self, message: str, *, scope: str = "all", retry_after_s: float) -> None:
        self.scope = scope
        super().__init__(message, retry_after_s=retry_after_s)


class ServiceUnavailable(ForgeError):
    """A service that the answer needs is down."""

    status = 503
    code = "service_unavailable"
    title = "Service unavailable"
    remedy = "Send the same request again after `retry_after_s`, or with growing pauses where that is not given."


class CircuitOpen(ServiceUnavailable):
    """A circuit breaker refuses calls to a service for now.

    Args:
        name: the service's name.
        retry_after_s: seconds until the breaker lets a probe through.
    """

    code = "circuit_open"
    title = "Circuit open"
    remedy = "Send the same request again after `retry_after_s`; `/health` shows the service that is away."

    def __init__(self, name: str, *, retry_after_s: float) -> None:
        self.name = name
        super().__init__(
            f"calls to {name!r} are suspended after repeated failures; retry in {retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )


class Overloaded(ServiceUnavailable):
    """A service gets no more calls for now, because as many as it may get are already in flight."""

    code = "overloaded"
    title = "Too many calls in flight"
    remedy = "Send the same request again with growing pauses, and raise the limit if usual load brings this up."


class ServiceTimeout(ServiceUnavailable, TimeoutError):
    """A service did not answer in time, or there is no time left to ask it."""

    code = "service_timeout"
    title = "Service timed out"
    remedy = "Send the same request again, and look at the service in `/health` if that does not help."


class GenerationTimeout(ForgeError):
    """The pipeline did not finish in time and was cancelled."""

    status = 504
    code = "generation_timeout"
    title = "Generation timed out"
    remedy = "Send the same request again, or have the operator raise `FORGE_GENERATION_TIMEOUT_S`."


class GenerationFailed(ForgeError):
    """The generation that this call waited for failed; it is not repeated for each call that waited for it.

    Args:
        error_type: what it failed with.
    """

    status = 503
    code = "generation_failed"
    title = "Generation failed"
    remedy = "Send the same request again, which begins a new generation; the failed one's trace has the reason."

    def __init__(self, message: str, *, error_type: str = "", retry_after_s: float | None = None) -> None:
        self.error_type = error_type
        super().__init__(message, retry_after_s=retry_after_s)


class Rejected(ForgeError):
    """Raised by a sink that can never store a record; the outbox moves the record to the dead letters."""

    code = "rejected"
    title = "Record rejected"
    remedy = "Look at the record among the dead letters in the outbox's folder, and mend what made it."


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn an ImportError inside the block into `MissingExtra`.

    Args:
        extra: the extra whose packages the block imports.

    Raises:
        MissingExtra: a package of the extra is not installed.
    """
    try:
        yield
    except ImportError as exc:
        raise MissingExtra(extra, package=exc.name or str(exc)) from exc
