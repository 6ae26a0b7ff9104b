"""What a bucket's store can do, learnt by asking: AWS, MinIO, R2, GCS and gateways differ, and none says so up front.

Only questions, no writes: they cost next to nothing, and a read-only look cannot break a bucket. What our requests need
(single PUT with Content-MD5, multipart, list, single DELETE) every store has, so that nothing depends on the answers;
they are for whoever runs the service.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from forge_otel.sinks.s3.client import Answer, Bucket, Refused

__all__ = ["NOT_KNOWN", "Capabilities", "probe", "report"]

Answered = Literal["on", "off", "unsupported", "unknown"]

_TIMEOUT_S: Final = 2.0
NOT_KNOWN: Final = frozenset({"MalformedXML", "MethodNotAllowed", "NotImplemented"})
"""Codes of stores that do not have what they were asked for."""
_OFF: Final = frozenset({"NoSuchLifecycleConfiguration", "ServerSideEncryptionConfigurationNotFoundError"})
_WITHOUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "versioning": "an artifact that is overwritten or deleted is gone",
        "lifecycle": "artifacts are kept for ever",
        "encryption": "objects are encrypted only where an upload asks for it",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What is `on`, `off` (the store has it), `unsupported`, or `unknown` because we may not ask.

    Args:
        versioning: whether older versions are kept.
        lifecycle: whether a rule of ours ends what is old.
        encryption: whether the bucket encrypts by default.
    """

    versioning: Answered
    lifecycle: Answered
    encryption: Answered


async def probe(bucket: Bucket, *, rule_prefix: str) -> Capabilities:
    """Ask the store what it has; never raises for what it refuses.

    Args:
        bucket: an open one.
        rule_prefix: how the ids of our lifecycle rules begin.

    Raises:
        ServiceUnavailable: the store does not answer.
    """
    versioning, answer = await _ask(bucket, "get_bucket_versioning")
    if versioning == "on" and answer.get("Status") != "Enabled":
        versioning = "off"
    lifecycle, answer = await _ask(bucket, "get_bucket_lifecycle_configuration")
    if lifecycle == "on" and not any(rule.get("ID", "").startswith(rule_prefix) for rule in answer.get("Rules", ())):
        lifecycle = "off"
    encryption, _ = await _ask(bucket, "get_bucket_encryption")
    return Capabilities(versioning=versioning, lifecycle=lifecycle, encryption=encryption)


def report(found: Capabilities) -> str:
    """Return in a sentence what is missing and what to do; empty where nothing is."""
    missing = [
        f"{name} is {state}: {effect}"
        for name, effect in _WITHOUT.items()
        if (state := getattr(found, name)) in {"off", "unsupported"}
    ]
    can_mend = "off" in {found.versioning, found.lifecycle}
    return "; ".join(missing) + ("; `forge-otel archive prepare` switches on what the store has" if can_mend else "")


async def _ask(bucket: Bucket, operation: str) -> tuple[Answered, Answer]:
    try:
        return "on", await bucket.call(operation, timeout_s=_TIMEOUT_S)
    except Refused as exc:
        if exc.s3_code in _OFF:
            return "off", {}
        # A gateway that knows no such question answers 501, 405 or that it cannot read it.
        return ("unsupported" if exc.s3_code in NOT_KNOWN or exc.s3_status == 501 else "unknown"), {}
