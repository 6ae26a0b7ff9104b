"""What a bucket needs to keep an archive without growing for ever: versions, and rules that end them.

`put_bucket_lifecycle_configuration` replaces all rules of a bucket. Here the rules are read first, only those that
carry our ids are replaced, and nothing is written when nothing would change.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from forge_otel.sinks.s3.capabilities import NOT_KNOWN
from forge_otel.sinks.s3.client import Answer, Bucket, Refused

__all__ = ["EXPIRE_RULE", "BucketReport", "prepare"]

EXPIRE_RULE: Final = "forge-otel-expire:"
"""How the ids of the rules begin that end what is old."""

# A setting of the whole configuration, which a PUT without it resets.
_BESIDE_RULES: Final = "TransitionDefaultMinimumObjectSize"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketReport:
    """What was done to a bucket.

    Args:
        changed: `versioning` and `lifecycle`, as far as they were not right before.
        unsupported: those of the two that the store does not have.
    """

    changed: tuple[str, ...]
    unsupported: tuple[str, ...]


async def prepare(bucket: Bucket, *, prefixes: Sequence[str], expire_days: int) -> BucketReport:
    """Switch versioning on and merge our lifecycle rules with the owner's.

    Args:
        bucket: one that exists, with the right to configure it.
        prefixes: of the keys that are ours.
        expire_days: after which an object ends, and after which again its last version is gone.

    Raises:
        Refused: the credentials may not do that.
    """
    changed: list[str] = []
    unsupported: list[str] = []
    steps: dict[str, Callable[[], Awaitable[bool]]] = {
        "versioning": partial(_version, bucket),
        "lifecycle": partial(_expire, bucket, prefixes=prefixes, expire_days=expire_days),
    }
    for name, step in steps.items():
        try:
            if await step():
                changed.append(name)
        except Refused as exc:
            if exc.s3_code not in NOT_KNOWN:
                raise
            unsupported.append(name)
    return BucketReport(changed=tuple(changed), unsupported=tuple(unsupported))


def rules_for(prefix: str, *, expire_days: int, in_old_form: bool) -> list[dict[str, Any]]:
    """Return our rules for the keys below `prefix`.

    Args:
        in_old_form: name the prefix as the rules of before 2016 do; S3 refuses a mixture of the two forms.
    """
    where: dict[str, Any] = {"Prefix": prefix} if in_old_form else {"Filter": {"Prefix": prefix}}
    return [
        {
            "ID": f"{EXPIRE_RULE}{prefix}",
            "Status": "Enabled",
            # On a versioned bucket this only hides the object; the next line is what ends it.
            "Expiration": {"Days": expire_days},
            "NoncurrentVersionExpiration": {"NoncurrentDays": expire_days},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
            **where,
        },
        {
            # S3 does not take this in one rule with days.
            "ID": f"forge-otel-markers:{prefix}",
            "Status": "Enabled",
            "Expiration": {"ExpiredObjectDeleteMarker": True},
            **where,
        },
    ]


async def _version(bucket: Bucket) -> bool:
    if (await bucket.call("get_bucket_versioning")).get("Status") == "Enabled":
        return False
    await bucket.call("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    return True


async def _expire(bucket: Bucket, *, prefixes: Sequence[str], expire_days: int) -> bool:
    found = await _configuration(bucket)
    present = found.get("Rules", [])
    in_old_form = any("Prefix" in rule for rule in present)
    ours = [rule for prefix in prefixes for rule in rules_for(prefix, expire_days=expire_days, in_old_form=in_old_form)]
    our_ids = {rule["ID"] for rule in ours}
    merged = [rule for rule in present if rule.get("ID") not in our_ids] + ours
    if sorted(map(_comparable, merged)) == sorted(map(_comparable, present)):
        return False
    beside = {_BESIDE_RULES: found[_BESIDE_RULES]} if _BESIDE_RULES in found else {}
    await bucket.call("put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": merged}, **beside)
    return True


async def _configuration(bucket: Bucket) -> Answer:
    try:
        return await bucket.call("get_bucket_lifecycle_configuration")
    except Refused as exc:
        if exc.s3_code == "NoSuchLifecycleConfiguration":
            return {}
        raise


def _comparable(rule: Any) -> str:
    """Return a text that is the same for equal rules, whatever the order of their members."""
    if isinstance(rule, dict):
        return f"{{{','.join(sorted(f'{name}:{_comparable(value)}' for name, value in rule.items()))}}}"
    return repr(rule)
