"""Counts private words and riddling sentences in the prose of the project: docstrings, comments, messages, documents.

    dialect.py [PATH …]        prints each place; exit code 1 if there is one

The prose of the project has a named subject, an active verb and the field's own term. A pattern below is a habit that
makes a reader stop: a pronoun as the subject of a sentence, or an invented word where a term exists. `ALLOWED` holds
the few places where such a word is right.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PROSE: Final = ("src/forge_otel", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")

PATTERNS: Final = {
    "a pronoun as subject": r"\b(?:whoever|whomever|somebody|someone else|nobody|anybody|everybody|no one)\b",
    "a sentence about `what`": r"(?:^|[.:;] )(?:What|Whatever) (?![^.]*\?)",
    "whatever as subject": r"\b(?:whatever|whichever) (?:it|is|was|they|the|happens)\b",
    "others as subject": r"\b(?:the others|by others|of others|the other half)\b",
    "a predicate without its verb": r"^Whether ",
    "away, there, alone": r"\b(?:(?:is|are|was|were|being) away|left alone|(?:is|are) (?:not )?there\b(?! a\b))",
    "in vain, anew, for ever": r"\b(?:in vain|anew|for ever|by itself|by themselves|of itself|at once again)\b",
    "told, asked, noted": r"\b(?:(?:is|are|was|were|be|been) (?:told|asked|noted)|told apart|asked of)\b",
    "tells, says": r"\b(?:tells|says) (?:of|about|so|who|what)\b",
    "look-up": r"\blook-?ups?\b(?<!lookup)(?<!lookups)",
    "life for TTL": r"\b(?:lives? for|its life|life of (?:an|the) entr\w+|life in seconds)\b",
    "places for slots": r"\b(?:free places?|places of|a place in)\b",
    "beside, likewise": r"\b(?:stands? beside|likewise|thereby|therein|hitherto|wherein)\b",
    "so long": r"\b(?:for so long|so many of|as long as it (?:takes|likes)|at it\b)",
    "a guard's words": r"\b(?:herd|hearsay|bells?|shelf|shelves|patience|worth of|flights?)\b",
}
# A sentence that begins with the word is meant, so its case counts.
_CASED: Final = {"a sentence about `what`", "a predicate without its verb"}
ALLOWED: Final = {"single flight", "single-flight", "in flight", "in-flight", "thundering herd"}
_COMPILED: Final = {
    habit: re.compile(pattern, re.NOFLAG if habit in _CASED else re.IGNORECASE) for habit, pattern in PATTERNS.items()
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where the prose should be clearer."""

    path: Path
    line: int
    habit: str
    text: str


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each piece of prose of a file with the line where it begins."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line.strip()


def findings(paths: list[Path]) -> list[Finding]:
    """Return every place in these files and folders."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    found = []
    for file in files:
        if file.suffix not in {".py", ".md"} or not file.is_file():
            continue
        for number, line in prose_of(file):
            # Names in backticks are code.
            plain = re.sub(r"`[^`]*`", "", line)
            for allowed in ALLOWED:
                plain = re.sub(allowed, "", plain, flags=re.IGNORECASE)
            habits = [habit for habit, pattern in _COMPILED.items() if pattern.search(plain)]
            found += [Finding(file, number, habit, line.strip()) for habit in habits]
    return found


def main(arguments: list[str]) -> int:
    """Print the places in the given paths, or in all prose."""
    paths = [Path(name) for name in arguments] or [ROOT / name for name in PROSE if (ROOT / name).exists()]
    found = findings(paths)
    for finding in found:
        print(f"{finding.path}:{finding.line}: {finding.habit}: {finding.text[:100]}")
    print(f"{len(found)} places", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
