"""Configuration of a bucket: which of versioning, lifecycle rules and encryption it has, and enabling the first two.

AWS, MinIO, R2, GCS and gateways differ in what they support, and none announces it, so it is probed. No request of the
archive depends on the result: single PUT with Content-MD5, multipart upload, list and single DELETE work everywhere.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

from forge_otel.sinks.s3.client import Answer, Bucket, Refused

__all__ = ["BucketChanges", "BucketFeatures", "prepare", "probe"]

FeatureState = Literal["on", "off", "unsupported", "unknown"]

_TIMEOUT_S: Final = 2.0
# Error codes of stores without the feature.
_UNSUPPORTED: Final = frozenset({"MalformedXML", "MethodNotAllowed", "NotImplemented"})
_NO_RULES: Final = "NoSuchLifecycleConfiguration"
_OFF: Final = frozenset({_NO_RULES, "ServerSideEncryptionConfigurationNotFoundError"})
_NOT_IMPLEMENTED: Final = 501
_CONSEQUENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "versioning": "an artifact that is overwritten or deleted is lost",
        "lifecycle": "artifacts are never deleted",
        "encryption": "only objects whose upload requests encryption are encrypted",
    }
)
# Prefixes of the ids by which our lifecycle rules are found again.
_EXPIRE_RULE: Final = "forge-otel-expire:"
_MARKER_RULE: Final = "forge-otel-markers:"
# A member of the lifecycle configuration beside its rules; a PUT without it resets it.
_CONFIGURATION_MEMBER: Final = "TransitionDefaultMinimumObjectSize"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketFeatures:
    """State of each feature: `on`, `off`, `unsupported` by the store, or `unknown` for lack of permission.

    Args:
        versioning: older versions of objects are kept.
        lifecycle: one of our rules expires old objects.
        encryption: the bucket encrypts by default.
    """

    versioning: FeatureState
    lifecycle: FeatureState
    encryption: FeatureState

    def advice(self) -> str:
        """Return the missing features, their consequences and the remedy; empty where none is missing."""
        missing = [
            f"{name} is {state}: {consequence}"
            for name, consequence in _CONSEQUENCES.items()
            if (state := getattr(self, name)) in {"off", "unsupported"}
        ]
        if "off" in {self.versioning, self.lifecycle}:
            missing.append("`forge-otel archive prepare` enables what the store supports")
        return "; ".join(missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketChanges:
    """Result of `prepare`.

    Args:
        changed: `versioning` and `lifecycle`, where they were not configured before.
        unsupported: those of the two that the store does not support.
    """

    changed: tuple[str, ...]
    unsupported: tuple[str, ...]


async def probe(bucket: Bucket) -> BucketFeatures:
    """Read the configuration of the bucket; an error answer becomes a state.

    Raises:
        ServiceUnavailable: the store does not respond.
    """
    versioning, answer = await _read(bucket, "get_bucket_versioning")
    if versioning == "on" and answer.get("Status") != "Enabled":
        versioning = "off"
    lifecycle, answer = await _read(bucket, "get_bucket_lifecycle_configuration")
    if lifecycle == "on" and not any(rule.get("ID", "").startswith(_EXPIRE_RULE) for rule in answer.get("Rules", ())):
        lifecycle = "off"
    encryption, _ = await _read(bucket, "get_bucket_encryption")
    return BucketFeatures(versioning=versioning, lifecycle=lifecycle, encryption=encryption)


async def prepare(bucket: Bucket, *, prefixes: Sequence[str], expire_days: int) -> BucketChanges:
    """Enable versioning and merge our lifecycle rules with those of the bucket's owner.

    Args:
        bucket: an existing bucket that the credentials may configure.
        prefixes: key prefixes of the archive.
        expire_days: days until an object expires, and again until its last version is deleted.

    Raises:
        Refused: the credentials may not configure the bucket.
    """
    changed: list[str] = []
    unsupported: list[str] = []
    steps: dict[str, Callable[[], Awaitable[bool]]] = {
        "versioning": partial(_enable_versioning, bucket),
        "lifecycle": partial(_merge_rules, bucket, prefixes=prefixes, expire_days=expire_days),
    }
    for name, step in steps.items():
        try:
            if await step():
                changed.append(name)
        except Refused as exc:
            if exc.s3_code not in _UNSUPPORTED:
                raise
            unsupported.append(name)
    return BucketChanges(changed=tuple(changed), unsupported=tuple(unsupported))


async def _read(bucket: Bucket, operation: str) -> tuple[FeatureState, Answer]:
    try:
        return "on", await bucket.call(operation, timeout_s=_TIMEOUT_S)
    except Refused as exc:
        if exc.s3_code in _OFF:
            return "off", {}
        # A gateway without the operation answers 501, 405, or that it cannot parse the request.
        is_unsupported = exc.s3_code in _UNSUPPORTED or exc.s3_status == _NOT_IMPLEMENTED
        return ("unsupported" if is_unsupported else "unknown"), {}


async def _enable_versioning(bucket: Bucket) -> bool:
    """Return whether versioning had to be enabled."""
    if (await bucket.call("get_bucket_versioning")).get("Status") == "Enabled":
        return False
    await bucket.call("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    return True


async def _merge_rules(bucket: Bucket, *, prefixes: Sequence[str], expire_days: int) -> bool:
    """Return whether the lifecycle rules had to be changed."""
    found = await _configuration(bucket)
    present = found.get("Rules", [])
    has_old_form = any("Prefix" in rule for rule in present)
    ours = [rule for prefix in prefixes for rule in _rules(prefix, expire_days=expire_days, in_old_form=has_old_form)]
    our_ids = {rule["ID"] for rule in ours}
    # A PUT replaces all rules of the bucket, so those of its owner are sent again.
    merged = [rule for rule in present if rule.get("ID") not in our_ids] + ours
    if sorted(map(_comparable, merged)) == sorted(map(_comparable, present)):
        return False
    member = {_CONFIGURATION_MEMBER: found[_CONFIGURATION_MEMBER]} if _CONFIGURATION_MEMBER in found else {}
    await bucket.call("put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": merged}, **member)
    return True


def _rules(prefix: str, *, expire_days: int, in_old_form: bool) -> list[dict[str, Any]]:
    """Return our lifecycle rules for the keys below `prefix`.

    Args:
        prefix: of the keys.
        expire_days: days until an object expires, and again until its last version is deleted.
        in_old_form: give the prefix as rules before 2016 did; S3 rejects a mixture of the two forms.
    """
    scope: dict[str, Any] = {"Prefix": prefix} if in_old_form else {"Filter": {"Prefix": prefix}}
    return [
        {
            "ID": f"{_EXPIRE_RULE}{prefix}",
            "Status": "Enabled",
            # On a versioned bucket this only adds a delete marker; the next member deletes the versions.
            "Expiration": {"Days": expire_days},
            "NoncurrentVersionExpiration": {"NoncurrentDays": expire_days},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            **scope,
        },
        {
            # A rule of its own, because S3 rejects this member together with days.
            "ID": f"{_MARKER_RULE}{prefix}",
            "Status": "Enabled",
            "Expiration": {"ExpiredObjectDeleteMarker": True},
            **scope,
        },
    ]


async def _configuration(bucket: Bucket) -> Answer:
    try:
        return await bucket.call("get_bucket_lifecycle_configuration")
    except Refused as exc:
        if exc.s3_code == _NO_RULES:
            return {}
        raise


def _comparable(rule: Any) -> str:
    """Return a text that is equal for equal rules, regardless of the order of their members."""
    if isinstance(rule, dict):
        return f"{{{','.join(sorted(f'{name}:{_comparable(value)}' for name, value in rule.items()))}}}"
    return repr(rule)
