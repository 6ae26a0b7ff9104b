"""`forge-otel archive`: lists, measures, links and deletes archived artifacts, and prepares the bucket."""

import asyncio
import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from forge_otel.errors import ConfigurationError, MissingExtra
from forge_otel.settings import Settings, mask_url

if TYPE_CHECKING:
    from forge_otel.sinks.archive import Archive
    from forge_otel.sinks.s3.sink import S3Archive

__all__ = ["add"]

Work = Callable[["Archive", Namespace], Awaitable[int]]


def add(commands: Any) -> None:
    """Add the command."""
    archive = commands.add_parser("archive", help="list, measure and delete the archive of FORGE_ARCHIVE_URL")
    actions = archive.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the stored objects, one per line")
    listing.add_argument("prefix", nargs="?", default="", help="key prefix, such as components/button-1")
    _runs(listing, _list)
    usage = actions.add_parser("usage", help="show the number, size and monthly price of the stored objects")
    usage.add_argument(
        "--usd-per-gib", type=_price, metavar="USD", help="price of a GiB per month (default: S3 Standard, us-east-1)"
    )
    _runs(usage, _usage)
    delete = actions.add_parser("delete", help="delete all objects of a component")
    delete.add_argument("component_id")
    delete.add_argument("--versions", action="store_true", help="delete older versions too; S3 only")
    _runs(delete, _delete)
    link = actions.add_parser("link", help="print a URL that serves an object to anyone who has it; S3 only")
    link.add_argument("key", help="as shown by `list`")
    link.add_argument("--seconds", type=int, default=3600, help="validity in seconds (default: %(default)s)")
    _runs(link, _link)
    prepare = actions.add_parser("prepare", help="enable versioning and merge our lifecycle rules; S3 only")
    prepare.add_argument("--days", type=int, default=90, help="age at which artifacts expire (default: %(default)s)")
    _runs(prepare, _prepare)


def _runs(parser: Any, work: Work) -> None:
    parser.set_defaults(command=lambda arguments: asyncio.run(_with_archive(work, arguments)))


async def _with_archive(work: Work, arguments: Namespace) -> int:
    from forge_otel._runtime import components

    settings = Settings.from_env(os.environ)
    if settings.archive_url is None:
        raise ConfigurationError(["FORGE_ARCHIVE_URL is empty; name the archive of the service"])
    opening: Any = components.build(settings).archive
    async with opening as archive:
        print(mask_url(settings.archive_url))
        return await work(archive, arguments)


async def _list(archive: "Archive", arguments: Namespace) -> int:
    async for found in archive.list(arguments.prefix):
        print(f"{found.modified_at.isoformat(timespec='seconds')}  {found.size_bytes:12}  {found.key}")
    return 0


async def _usage(archive: "Archive", arguments: Namespace) -> int:
    from forge_otel.sinks.archive import STANDARD_USD_PER_GIB, measure

    price = STANDARD_USD_PER_GIB if arguments.usd_per_gib is None else arguments.usd_per_gib
    listings: dict[str, AsyncIterator[Any]] = {"current": archive.list()}
    bucket = _bucket_of(archive)
    if bucket is not None:
        listings["with older versions"] = bucket.list_versions()
    for name, listing in listings.items():
        async with aclosing(listing):  # type: ignore[type-var]
            found = await measure(listing)
        size = f"{found.objects} objects, {found.size_bytes / 2**20:.1f} MiB"
        print(f"{name}: {size}, ${found.monthly_usd(price):.4f} a month at ${price} a GiB")
    return 0


async def _delete(archive: "Archive", arguments: Namespace) -> int:
    if arguments.versions:
        count = await _require_bucket(archive).delete(arguments.component_id, versions=True)
    else:
        count = await archive.delete(arguments.component_id)
    print(f"{count} objects deleted")
    return 0


async def _link(archive: "Archive", arguments: Namespace) -> int:
    print(await _require_bucket(archive).presigned_get(arguments.key, expires_s=arguments.seconds))
    return 0


async def _prepare(archive: "Archive", arguments: Namespace) -> int:
    bucket = _require_bucket(archive)
    done = await bucket.prepare_bucket(expire_days=arguments.days)
    found = await bucket.capabilities()
    for name in ("versioning", "lifecycle", "encryption"):
        print(f"{name}: {getattr(found, name)}{' (changed now)' if name in done.changed else ''}")
    return 0


def _bucket_of(archive: "Archive") -> "S3Archive | None":
    try:
        from forge_otel.sinks.s3.sink import S3Archive
    except MissingExtra:
        # Without the extra, no archive can be in S3.
        return None
    return archive if isinstance(archive, S3Archive) else None


def _require_bucket(archive: "Archive") -> "S3Archive":
    bucket = _bucket_of(archive)
    if bucket is None:
        raise ConfigurationError(["FORGE_ARCHIVE_URL is not in S3; only an archive in S3 supports this"])
    return bucket


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text)
    except InvalidOperation as exc:
        raise ArgumentTypeError(f"{text!r} is not a price in USD") from exc
    if not price.is_finite() or price < 0:
        raise ArgumentTypeError("a price is 0 or more")
    return price
