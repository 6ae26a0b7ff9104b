"""Options of the S3 archive, and their form as an `s3://` URL."""

import re
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from forge_otel._internal.checks import require

__all__ = ["Encryption", "S3Options", "parse"]

Encryption = Literal["auto", "AES256", "none"]

_NAMES: Final = frozenset({"compress", "endpoint_url", "prefix", "region", "sse", "timeout_s"})
_MAX_TIMEOUT_S: Final = 60.0
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_PREFIX: Final = re.compile(r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """Location of the archive, and how objects are stored.

    Args:
        bucket: an existing bucket.
        prefix: of every key; empty, or ending in a slash.
        region: None takes the region of the AWS configuration.
        endpoint_url: of a store other than AWS, whose buckets are then addressed by path.
        encryption: `AES256` requires encryption, `auto` requests it, `none` does not request it.
        compress: store texts with gzip and `Content-Encoding`.
        timeout_s: deadline of one request in seconds; large bodies get the time they take at 256 KiB/s in addition.
    """

    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint_url: str | None = None
    encryption: Encryption = "auto"
    compress: bool = False
    timeout_s: float = 10.0


def parse(url: str) -> S3Options:
    """Parse `s3://bucket/prefix?region=…&endpoint_url=…&prefix=…&sse=auto|AES256|none&compress=none|gzip&timeout_s=10`.

    Raises:
        ConfigurationError: lists every fault of the URL, without values that could be secrets.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = (options.get("prefix") or unquote(parts.path)).strip("/")
    endpoint_url, sse = options.get("endpoint_url") or None, options.get("sse", "auto")
    compress = options.get("compress", "none")
    timeout_s = _seconds(options.get("timeout_s", "10"))
    bucket = parts.netloc.rpartition("@")[2]
    require(
        ("@" not in parts.netloc, "an s3:// URL contains no credentials; set the AWS variables or a profile"),
        (
            _BUCKET.fullmatch(bucket) is not None,
            "the bucket in an s3:// URL has 3 to 63 lower-case letters, digits, '.' and '-'",
        ),
        (options.keys() <= _NAMES, f"the options of an s3:// URL are {', '.join(sorted(_NAMES))}"),
        (
            not (options.get("prefix") and parts.path.strip("/")),
            "the prefix of an s3:// URL is given once, as its path or as prefix=",
        ),
        (
            not prefix or _PREFIX.fullmatch(prefix) is not None,
            "the prefix of an s3:// URL has letters, digits, '.', '_' and '-' between slashes",
        ),
        (
            endpoint_url is None or endpoint_url.startswith(("http://", "https://")),
            "endpoint_url of an s3:// URL begins with http:// or https://",
        ),
        (sse in get_args(Encryption), "sse of an s3:// URL is auto, AES256 or none"),
        (compress in {"gzip", "none"}, "compress of an s3:// URL is gzip or none"),
        (
            0 < timeout_s <= _MAX_TIMEOUT_S,
            f"timeout_s of an s3:// URL is above 0 and at most {_MAX_TIMEOUT_S:g}",
        ),
    )
    return S3Options(
        bucket=bucket,
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
