"""The error tree of the library.

ForgeError
├── ConfigurationError        invalid settings; every fault is listed at once
│   └── MissingExtra          an optional package is not installed
├── NotOpen                   a call needs an open Forge
├── BadRequest           400  the request is invalid or not allowed
│   ├── NotFound         404
│   └── PayloadTooLarge  413
├── Unauthorized         401
├── BudgetExceeded       429  the daily budget of cost or tokens is exhausted
├── ServiceUnavailable   503  a required service is unavailable
│   ├── CircuitOpen      503  its circuit breaker rejects calls
│   ├── FetchInProgress  503  a fetch continues behind its caller, who may ask again
│   ├── Overloaded       503  the maximum number of calls to it is in flight
│   └── ServiceTimeout   503  it did not respond in time (also a TimeoutError)
├── GenerationTimeout    504  the pipeline did not finish in time
├── GenerationFailed     503  the shared generation that this call waited for has failed
└── Rejected                  a sink can never store the record

`status`, `code` and `title` are members of a problem+json response (RFC 9457).
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
    """Base class of the errors of forge-otel."""

    status = 500
    # Clients branch on the code, so that it never changes once released; the title may.
    code = "internal"
    title = "Internal error"
    # For the catalog docs/errors.md (scripts/docs.py). It is not sent: the message, sent as `detail`, recommends the
    # action for the case at hand.
    remedy = "Find the cause by the trace id of the response in the service's logs and traces."
    is_personal = False
    """True for errors that concern one caller only; callers that share the generation then retry on their own."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConfigurationError(ForgeError):
    """Settings are invalid.

    Args:
        faults: one sentence for each fault, with secrets already masked.
    """

    code = "configuration"
    title = "Configuration error"
    remedy = "Correct every setting that the message lists, then start again."

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        count = len(self.faults)
        super().__init__(f"{count} invalid setting{'s' if count != 1 else ''}:\n{lines}")


class MissingExtra(ConfigurationError):
    """An optional package is not installed.

    Args:
        extra: the extra that installs it.
        package: the module that could not be imported.
    """

    code = "missing_extra"
    remedy = "Install the extra that the message names, or change the setting that needs it."

    def __init__(self, extra: str, *, package: str) -> None:
        self.extra = extra
        self.package = package
        super().__init__([f"the package {package!r} is not installed: pip install 'forge-otel[{extra}]'"])


class NotOpen(ForgeError):
    """A call needs an open Forge; enter it with `async with forge:` or add ForgeMiddleware to the application."""

    code = "not_open"
    title = "Forge is not open"
    remedy = "Call the function inside `async with forge:`, or add ForgeMiddleware to the application."


class BadRequest(ForgeError):
    """The request is invalid or not allowed; nothing was stored."""

    status = 400
    code = "bad_request"
    title = "Bad request"
    remedy = "Change the request as the message explains; the same request will be refused again."


class NotFound(BadRequest):
    """The requested object does not exist."""

    status = 404
    code = "not_found"
    title = "Not found"
    remedy = "Check the name or id in the request, and whether the object was deleted."


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
    """The daily budget of cost or tokens is exhausted; cached results are still served.

    Args:
        scope: scope of the budget: `all`, `tenant`, `user` or `session`.
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
    """A required service is unavailable."""

    status = 503
    code = "service_unavailable"
    title = "Service unavailable"
    remedy = "Send the same request again after `retry_after_s`, or with exponential back-off if it is absent."


class CircuitOpen(ServiceUnavailable):
    """A circuit breaker rejects calls to a service.

    Args:
        name: the service.
        retry_after_s: seconds until the breaker allows a probe.
    """

    code = "circuit_open"
    title = "Circuit open"
    remedy = "Send the same request again after `retry_after_s`; `/health` shows the unavailable service."

    def __init__(self, name: str, *, retry_after_s: float) -> None:
        self.name = name
        super().__init__(
            f"calls to {name!r} are suspended after repeated failures; retry in {retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )


class FetchInProgress(ServiceUnavailable):
    """A fetch takes longer than its caller may wait; it continues, and its response is cached."""

    code = "fetch_in_progress"
    title = "Fetch in progress"
    remedy = "Send the same request again after `retry_after_s`; it is answered from the fetch that is running."


class Overloaded(ServiceUnavailable):
    """The maximum number of calls to a service is already in flight."""

    code = "overloaded"
    title = "Too many calls in flight"
    remedy = "Send the same request again with exponential back-off, or raise the limit for normal load."


class ServiceTimeout(ServiceUnavailable, TimeoutError):
    """A service did not respond in time, or no time was left to call it."""

    code = "service_timeout"
    title = "Service timed out"
    remedy = "Send the same request again; if it fails again, check the service in `/health`."


class GenerationTimeout(ForgeError):
    """The pipeline did not finish in time and was cancelled."""

    status = 504
    code = "generation_timeout"
    title = "Generation timed out"
    remedy = "Send the same request again, or have the operator raise `FORGE_GENERATION_TIMEOUT_S`."


class GenerationFailed(ForgeError):
    """The shared generation that this call waited for has failed, and is not repeated for each waiting call.

    Args:
        error_type: class name of its exception.
    """

    status = 503
    code = "generation_failed"
    title = "Generation failed"
    remedy = "Send the same request again to start a new generation; the failed one has its cause on its trace."

    def __init__(self, message: str, *, error_type: str = "", retry_after_s: float | None = None) -> None:
        self.error_type = error_type
        super().__init__(message, retry_after_s=retry_after_s)


class Rejected(ForgeError):
    """A sink can never store the record; the outbox moves it to the dead letters."""

    code = "rejected"
    title = "Record rejected"
    remedy = "Inspect the dead letter in the outbox directory, and fix the code that created the record."


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Convert an ImportError inside the block to `MissingExtra`.

    Args:
        extra: the extra whose packages the block imports.

    Raises:
        MissingExtra: a package of the extra is not installed.
    """
    try:
        yield
    except ImportError as exc:
        raise MissingExtra(extra, package=exc.name or str(exc)) from exc
