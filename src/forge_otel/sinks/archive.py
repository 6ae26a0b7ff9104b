"""What every archive of artifacts has in common: its methods, its layout, and the manifest that completes a bundle.

`components/{component_id}/{name}` holds the artifacts, `reports/{component_id}/quality-report.html` the report, and
`components/{component_id}/manifest.json` says which generation they are of, with the size and SHA-256 of each. The
manifest is written last: a reader who finds the hashes of the manifest in the files has a whole bundle of one
generation, and one who does not is looking while a newer one is being written.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, Self

import orjson

from forge_otel.errors import BadRequest, NotFound, Rejected
from forge_otel.keys import artifact_key, canonical
from forge_otel.types import Record, Sink

__all__ = ["MANIFEST", "Archive", "ArchivedObject", "Bundle", "bundle_keys", "check_key", "folders"]

MANIFEST: Final = "manifest.json"
ROOMS: Final = ("components", "reports")
_SEGMENT: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ArchivedObject:
    """One stored file."""

    key: str
    size_bytes: int
    modified_at: datetime
    """Aware, UTC."""


class Archive(Sink, Protocol):
    """A sink that stores artifacts and gives them back."""

    async def read(self, key: str) -> bytes:
        """Return the content stored under `key`; raises `NotFound` if there is none."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[ArchivedObject]:
        """Go through what is stored under keys that begin with `prefix`, in their order."""
        ...

    async def delete(self, component_id: str) -> int:
        """Delete all that belongs to a component; return how many objects that were."""
        ...

    async def ping(self) -> None:
        """Raise if nothing could be stored now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one generation stores.

    Args:
        objects: key to content, without the manifest.
        manifest: what completes them, as canonical JSON.
    """

    component_id: str
    objects: Mapping[str, bytes]
    manifest: bytes

    @property
    def manifest_key(self) -> str:
        """Where the manifest is stored."""
        return f"components/{self.component_id}/{MANIFEST}"

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return what `record` stores.

        Raises:
            Rejected: a name cannot be stored, and never will.
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
        """Say whether what is stored is of a later generation; records may come twice and late."""
        return _age(stored_manifest) > _age(self.manifest)

    def is_described_by(self, stored_manifest: bytes) -> bool:
        """Say whether what is stored has the same contents, so that its manifest may stay."""
        return _listed(stored_manifest) == _listed(self.manifest)


def bundle_keys(component_id: str, manifest: bytes) -> set[str]:
    """Return the keys that a stored manifest lists; none if it cannot be read."""
    try:
        return {_key(component_id, name) for name in _listed(manifest)}
    except Rejected:
        return set()


def check_component_id(component_id: str) -> None:
    """Raise `Rejected` unless `component_id` can be a folder on every store, and nothing but a folder."""
    if not _SEGMENT.fullmatch(component_id):
        raise Rejected("component_id may hold 1 to 128 letters, digits, '.', '_' and '-', and may not be '.' or '..'")


def check_key(key: str) -> tuple[str, str, str]:
    """Return the room, component and name in `key`; raise `NotFound` if nothing can be stored there."""
    parts = key.split("/")
    if len(parts) != 3 or parts[0] not in ROOMS or not all(_SEGMENT.fullmatch(part) for part in parts):
        raise NotFound(f"nothing is archived under {key[:200]!r}")
    return parts[0], parts[1], parts[2]


def folders(component_id: str) -> tuple[str, ...]:
    """Return the key prefixes, with their slash, below which a component's objects lie."""
    check_component_id(component_id)
    return tuple(f"{room}/{component_id}/" for room in ROOMS)


def _listed(manifest: bytes) -> dict[str, Any]:
    """Return the artifacts that a manifest lists; none if it is not one of ours."""
    try:
        return dict(orjson.loads(manifest)["artifacts"])
    except (ValueError, KeyError, TypeError):
        return {}


def _age(manifest: bytes) -> tuple[str, str]:
    try:
        plain = orjson.loads(manifest)
        return str(plain["created_at"]), str(plain["generation_id"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def _key(component_id: str, name: str) -> str:
    if name == MANIFEST or name.startswith(".forge-"):
        raise Rejected(f"an artifact cannot be called {name!r}: the archive needs that name for itself")
    try:
        return artifact_key(component_id, name)
    except BadRequest as exc:
        raise Rejected(str(exc)) from exc
