"""Retries: classification of errors, pauses with jitter, and a budget that limits all retries.

`classify` inspects attributes and class names, so that no SDK is imported: `status_code`, `response` and the names in
the class hierarchy cover openai, httpx, aiohttp, redis, botocore, qdrant-client, asyncpg and SQLAlchemy.

Pauses have full jitter: with a jitter of 10 % a thousand clients return within a fifth of a second. The budget limits
the load that retries add. It is shared by all services and filled by successes, so it runs empty in an outage, in which
retries only add load.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from forge_otel._internal.backoff import parse_retry_after
from forge_otel._internal.checks import require
from forge_otel.errors import ForgeError, ServiceTimeout

__all__ = [
    "Classify",
    "RetryBudget",
    "RetryOptions",
    "Verdict",
    "classify",
    "pause_s",
    "verdict_of",
]

_REQUEST_TIMEOUT: Final = 408
_TOO_MANY_REQUESTS: Final = 429
_QUOTA_CODES: Final = {"insufficient_quota", "billing_hard_limit_reached"}
_AUTH_NAMES: Final = {
    "AuthenticationError",  # openai; of redis it is a ConnectionError too
    "AuthorizationError",
    "PermissionDeniedError",
    "InvalidAuthorizationSpecificationError",  # asyncpg
    "InvalidPasswordError",
    "NoCredentialsError",  # botocore
}
_TRANSIENT_SUFFIXES: Final = (
    "Timeout",
    "TimeoutError",
    "ConnectionError",
    "TransportError",  # httpx
    "HTTPClientError",  # botocore
    "ResponseHandlingException",  # qdrant-client
    "OperationalError",  # DB-API
    "InterfaceError",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Classification of an error.

    Args:
        kind: `failure`: of the service; `ignore`: of the caller; `throttle`: too many requests; `fatal`: needs an
            operator, such as a rejected key. All kinds except `ignore` count for the breaker.
        is_transient: whether a retry may succeed.
        retry_after_s: pause requested by the service in seconds, or None.
    """

    kind: Literal["failure", "ignore", "throttle", "fatal"]
    is_transient: bool = False
    retry_after_s: float | None = None


Classify = Callable[[Exception], Verdict]
"""Classifies an error; a pure function."""

_TRANSIENT: Final = Verdict("failure", is_transient=True)
_UNKNOWN: Final = Verdict("failure")
_IGNORE: Final = Verdict("ignore")
_FATAL: Final = Verdict("fatal")


def verdict_of(exc: BaseException, classify_call: Classify) -> Verdict:
    """Return the verdict of `classify_call` on `exc`; a cancellation is ignored."""
    if not isinstance(exc, Exception):
        return _IGNORE
    try:
        return classify_call(exc)
    except Exception:
        # An error in the user's function must not hide that of the service.
        return classify(exc)


def classify(exc: Exception) -> Verdict:
    """Return the default verdict on `exc`; an unknown error counts as a failure of the service and is not retried."""
    if isinstance(exc, ForgeError):
        # Rejected by another guard, or by a check of the request: not the fault of this service.
        return _TRANSIENT if isinstance(exc, ServiceTimeout) else _IGNORE
    names = [base.__name__ for base in type(exc).__mro__]
    if not _AUTH_NAMES.isdisjoint(names):
        return _FATAL
    status = _status_of(exc)
    if status is not None:
        return _by_status(exc, status)
    if isinstance(exc, OSError) or any(name.endswith(_TRANSIENT_SUFFIXES) for name in names):
        return _TRANSIENT
    return _UNKNOWN


def _by_status(exc: Exception, status: int) -> Verdict:
    if getattr(exc, "code", None) in _QUOTA_CODES or status in {401, 403}:
        return _FATAL
    if status == _TOO_MANY_REQUESTS:
        return Verdict("throttle", is_transient=True, retry_after_s=_retry_after_of(exc))
    if status >= 500 or status == _REQUEST_TIMEOUT:
        return Verdict("failure", is_transient=True, retry_after_s=_retry_after_of(exc))
    return _IGNORE if status >= 400 else _UNKNOWN


def _status_of(exc: Exception) -> int | None:
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):  # botocore
        found = _metadata_of(response).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    for holder in (exc, response):
        for name in ("status_code", "status"):
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    return None


def _metadata_of(response: Mapping[str, Any]) -> Mapping[str, Any]:
    found = response.get("ResponseMetadata")
    return found if isinstance(found, Mapping) else {}


def _retry_after_of(exc: Exception) -> float | None:
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        headers = _metadata_of(response).get("HTTPHeaders")
    else:
        headers = getattr(response, "headers", None) or getattr(exc, "headers", None)
    if not isinstance(headers, Mapping):
        return None
    by_name = {str(name).lower(): str(value) for name, value in headers.items()}
    milliseconds = by_name.get("retry-after-ms")
    if milliseconds is not None and (requested_s := parse_retry_after(milliseconds)) is not None:
        return requested_s / 1000
    return parse_retry_after(by_name.get("retry-after"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOptions:
    """Number of attempts and length of the pauses between them.

    Args:
        attempts: number of attempts including the first; 1 means no retry.
        base_s: upper bound of the first pause in seconds; doubles with each attempt.
        max_s: largest upper bound in seconds.

    Raises:
        ConfigurationError: with every fault at once.
    """

    attempts: int = 3
    base_s: float = 0.5
    max_s: float = 8.0

    def __post_init__(self) -> None:
        require(
            (self.attempts >= 1, "attempts of a retry must be at least 1, which is the call itself"),
            (self.base_s >= 0 and self.max_s >= 0, "base_s and max_s of a retry must not be negative"),
        )


def pause_s(
    options: RetryOptions, attempt: int, retry_after_s: float | None, *, rng: Callable[[], float] = random.random
) -> float:
    """Return the pause after a failed attempt in seconds, with full jitter, or the requested pause plus jitter.

    Args:
        options: bounds of the pauses.
        attempt: number of the failed attempt, from 1.
        retry_after_s: pause requested by the service in seconds, or None.
        rng: returns a number in [0, 1).
    """
    # The exponent is capped so that the product stays a finite float.
    limit_s = min(options.max_s, options.base_s * 2.0 ** min(attempt - 1, 60))
    if retry_after_s is None:
        return limit_s * rng()
    # All clients got the same number; the jitter keeps them from returning at the same moment.
    return retry_after_s + options.base_s * rng()


class RetryBudget:
    """Token bucket for the retries of all services; each retry takes one token.

    Args:
        per_success: tokens added by a success.
        capacity: largest number of tokens; limits the burst of retries at the start of an outage.
        reserve: initial number of tokens, up to which time alone refills, so that a service with few calls can retry.
        refill_per_s: tokens added per second, up to the reserve.
    """

    def __init__(
        self,
        *,
        per_success: float = 0.1,
        capacity: float = 50.0,
        reserve: float = 10.0,
        refill_per_s: float = 0.1,
    ) -> None:
        self.tokens = reserve
        self.spent = 0
        self.refused = 0
        self._per_success = per_success
        self.capacity = capacity
        self._reserve = reserve
        self._refill_per_s = refill_per_s
        self._refilled_at_s: float | None = None

    def deposit(self) -> None:
        """Add the tokens of a success."""
        if self.tokens < self.capacity:
            self.tokens += self._per_success

    def withdraw(self, now_s: float) -> bool:
        """Take a token for one retry and return whether there was one."""
        self._refill(now_s)
        if self.tokens < 1:
            self.refused += 1
            return False
        self.tokens -= 1
        self.spent += 1
        return True

    def _refill(self, now_s: float) -> None:
        if self._refilled_at_s is not None and self.tokens < self._reserve:
            grown = self.tokens + (now_s - self._refilled_at_s) * self._refill_per_s
            self.tokens = min(self._reserve, grown)
        self._refilled_at_s = now_s
