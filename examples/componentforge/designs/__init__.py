"""Sample Figma files in the shape of ``GET /v1/files/:key``; ``python -m componentforge.designs.make`` writes them."""

import json
from pathlib import Path
from typing import Any

__all__ = ["FILES", "FOLDER", "load"]

FOLDER = Path(__file__).parent

FILES = {
    "aT1as7DeSiGn2SyStEm9Qk": "atlas.json",
    "hArB0rC0mmErCe5KiT3xWz": "harbor.json",
}
"""Figma file key to the name of its JSON file."""


def load(file_key: str) -> dict[str, Any]:
    """Return the answer of ``GET /v1/files/:key`` for one sample file.

    Raises:
        KeyError: there is no such sample.
    """
    content: dict[str, Any] = json.loads((FOLDER / FILES[file_key]).read_text(encoding="utf-8"))
    return content
