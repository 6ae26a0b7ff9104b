"""What an `s3://` URL says; every fault of it is told at once."""

import re
from dataclasses import dataclass
from typing import Final, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from forge_otel.errors import ConfigurationError
from forge_otel.sinks.s3.upload import Encryption

__all__ = ["Target", "parse"]

_OPTIONS: Final = frozenset({"compress", "endpoint_url", "prefix", "region", "sse", "timeout_s"})
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_PREFIX: Final = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An archive's bucket and how to talk to it.

    Args:
        prefix: empty, or ending in a slash.
        compress: whether texts are stored with gzip.
    """

    bucket: str
    prefix: str
    region: str | None
    endpoint_url: str | None
    encryption: Encryption
    compress: bool
    timeout_s: float


def parse(url: str) -> Target:
    """Read `s3://bucket/prefix?region=…&endpoint_url=…&prefix=…&sse=auto|AES256|none&compress=none|gzip&timeout_s=10`.

    Raises:
        ConfigurationError: with every fault at once; no value that could be a secret is repeated.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = (options.get("prefix") or unquote(parts.path)).strip("/")
    endpoint_url, sse = options.get("endpoint_url") or None, options.get("sse", "auto")
    compress = options.get("compress", "none")
    timeout_s = _seconds(options.get("timeout_s", "10"))
    checks = {
        "an s3:// URL holds no user name and password; the AWS variables and profiles do": "@" not in parts.netloc,
        "the bucket in an s3:// URL has 3 to 63 lower-case letters, digits, '.' and '-'": _BUCKET.fullmatch(
            parts.netloc.rpartition("@")[2]
        ),
        f"an s3:// URL has the options {', '.join(sorted(_OPTIONS))} and no others": options.keys() <= _OPTIONS,
        "the prefix of an s3:// URL is given once, as its path or as prefix=": not (
            options.get("prefix") and parts.path.strip("/")
        ),
        "the prefix of an s3:// URL has letters, digits, '.', '_' and '-' between slashes": not prefix
        or _PREFIX.fullmatch(prefix),
        "endpoint_url of an s3:// URL begins with http:// or https://": endpoint_url is None
        or endpoint_url.startswith(("http://", "https://")),
        "sse of an s3:// URL is auto, AES256 or none": sse in get_args(Encryption),
        "compress of an s3:// URL is gzip or none": compress in {"gzip", "none"},
        "timeout_s of an s3:// URL is a number of seconds above 0 and up to 60": 0 < timeout_s <= 60,
    }
    faults = [fault for fault, is_right in checks.items() if not is_right]
    if faults:
        raise ConfigurationError(faults)
    return Target(
        bucket=parts.netloc,
        prefix=f"{prefix}/" if prefix else "",
        region=options.get("region") or None,
        endpoint_url=endpoint_url,
        encryption=cast("Encryption", sse),
        compress=compress == "gzip",
        timeout_s=timeout_s,
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
