"""The archive of artifacts: its interface, its layout, the manifest that completes a bundle, and its size.

`components/{component_id}/{name}` holds the artifacts and `reports/{component_id}/quality-report.html` the report.
`components/{component_id}/manifest.json` names their generation, with the size and SHA-256 of each. The manifest is
written last: if the hashes in the manifest match the files, the bundle is complete and of one generation; otherwise a
newer bundle is being written.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Protocol, Self

import orjson

from forge_otel.errors import BadRequest, NotFound, Rejected
from forge_otel.keys import artifact_key, canonical
from forge_otel.types import Record, Sink

__all__ = [
    "AREAS",
    "MANIFEST",
    "STANDARD_USD_PER_GIB",
    "Archive",
    "ArchiveUsage",
    "ArchivedObject",
    "Bundle",
    "bundle_keys",
    "check_key",
    "folders",
    "measure",
]

MANIFEST: Final = "manifest.json"
AREAS: Final = ("components", "reports")
"""First segments of all keys."""

STANDARD_USD_PER_GIB: Final = Decimal("0.023")
"""Price of a GiB for a month in S3 Standard, us-east-1, first 50 TB (AWS price list)."""

_GIB: Final = 2**30
# One key segment that is valid as a folder name, an object key and a URL segment.
_SEGMENT: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ArchivedObject:
    """One stored object."""

    key: str
    size_bytes: int
    modified_at: datetime
    """Time of the last write, aware, in UTC."""


class Archive(Sink, Protocol):
    """Sink that stores artifacts, and can read, list and delete them."""

    async def read(self, key: str) -> bytes:
        """Return the content stored under `key`; raise `NotFound` if there is none."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Iterate over the objects whose keys begin with `prefix`, sorted by key."""
        ...

    async def delete(self, component_id: str) -> int:
        """Delete all objects of a component; return their number."""
        ...

    async def ping(self) -> None:
        """Raise unless the archive accepts writes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveUsage:
    """Number and total size of stored objects.

    Args:
        size_bytes: as stored, after compression.
    """

    objects: int
    size_bytes: int

    def monthly_usd(self, usd_per_gib: Decimal = STANDARD_USD_PER_GIB) -> Decimal:
        """Return the storage price for a month, without requests and traffic."""
        return usd_per_gib * self.size_bytes / _GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The objects that one generation stores.

    Args:
        objects: key to content, without the manifest.
        manifest: canonical JSON.
    """

    component_id: str
    objects: Mapping[str, bytes]
    manifest: bytes

    @property
    def manifest_key(self) -> str:
        """Key under which the manifest is stored."""
        return f"components/{self.component_id}/{MANIFEST}"

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return the bundle of `record`.

        Raises:
            Rejected: a name is invalid and can never be stored.
        """
        check_component_id(record.component_id)
        objects: dict[str, bytes] = {}
        listed: dict[str, dict[str, Any]] = {}
        for name, artifact in record.artifacts.items():
            content = artifact.encode("utf-8", "replace") if isinstance(artifact, str) else artifact
            objects[_key(record.component_id, name)] = content
            listed[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        manifest = {
            "version": 1,
            "generation_id": record.id,
            "created_at": record.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
            "artifacts": listed,
        }
        return cls(component_id=record.component_id, objects=objects, manifest=canonical(manifest))

    def is_outdated_by(self, stored_manifest: bytes) -> bool:
        """Return whether the stored bundle belongs to a later generation."""
        # Records may be delivered twice and out of order.
        return _version(stored_manifest) > _version(self.manifest)

    def has_contents_of(self, stored_manifest: bytes) -> bool:
        """Return whether the stored bundle has the same artifacts, so that its manifest is kept."""
        return _listed(stored_manifest) == _listed(self.manifest)


def bundle_keys(component_id: str, manifest: bytes) -> set[str]:
    """Return the keys of the artifacts in a stored manifest; empty if the manifest is unreadable."""
    try:
        return {_key(component_id, name) for name in _listed(manifest)}
    except Rejected:
        return set()


def check_component_id(component_id: str) -> None:
    """Raise `Rejected` unless `component_id` is a valid folder name on every store."""
    if not _SEGMENT.fullmatch(component_id):
        raise Rejected("component_id may hold 1 to 128 letters, digits, '.', '_' and '-', and may not be '.' or '..'")


def check_key(key: str) -> tuple[str, str, str]:
    """Split `key` into area, component id and name; raise `NotFound` if it is not a valid key."""
    parts = key.split("/")
    if len(parts) != 3 or parts[0] not in AREAS or not all(_SEGMENT.fullmatch(part) for part in parts):
        raise NotFound(f"nothing is archived under {key[:200]!r}")
    return parts[0], parts[1], parts[2]


def folders(component_id: str) -> tuple[str, ...]:
    """Return the key prefixes of a component's objects, each ending in a slash."""
    check_component_id(component_id)
    return tuple(f"{area}/{component_id}/" for area in AREAS)


async def measure(objects: AsyncIterator[ArchivedObject]) -> ArchiveUsage:
    """Count the objects of a listing and add up their sizes."""
    count = size_bytes = 0
    async for found in objects:
        count += 1
        size_bytes += found.size_bytes
    return ArchiveUsage(objects=count, size_bytes=size_bytes)


def _listed(manifest: bytes) -> dict[str, Any]:
    """Return the artifacts of a manifest; empty if it is not one of ours."""
    try:
        return dict(orjson.loads(manifest)["artifacts"])
    except (ValueError, KeyError, TypeError):
        return {}


def _version(manifest: bytes) -> tuple[str, str]:
    try:
        plain = orjson.loads(manifest)
        return str(plain["created_at"]), str(plain["generation_id"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def _key(component_id: str, name: str) -> str:
    if name == MANIFEST or name.startswith(".forge-"):
        raise Rejected(f"an artifact cannot be called {name!r}: the name is reserved for the archive")
    try:
        return artifact_key(component_id, name)
    except BadRequest as exc:
        raise Rejected(str(exc)) from exc
