"""Sample Figma files in the format of ``GET /v1/files/:key``, written by ``python -m componentforge.designs.make``."""

import json
from pathlib import Path
from typing import Any

__all__ = ["FILES", "FOLDER", "load"]

FOLDER = Path(__file__).parent

FILES = {
    "aT1as7DeSiGn2SyStEm9Qk": "atlas.json",
    "hArB0rC0mmErCe5KiT3xWz": "harbor.json",
}
"""Figma file key to JSON file name."""


def load(file_key: str) -> dict[str, Any]:
    """Return the body of ``GET /v1/files/:key`` for a sample file.

    Raises:
        KeyError: no sample file has this key.
    """
    content: dict[str, Any] = json.loads((FOLDER / FILES[file_key]).read_text(encoding="utf-8"))
    return content
