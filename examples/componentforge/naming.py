"""Derive identifiers from design names: ASCII, short, and no reserved word of TypeScript or React."""

import re

__all__ = ["camel", "component_identifier", "is_valid_prop_name", "pascal", "slug", "unique"]

_MAX_CHARS = 40
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", re.ASCII)
_IDENTIFIER = re.compile(r"[a-z][A-Za-z0-9]{0,63}", re.ASCII)

# Reserved words of ECMAScript including strict mode, special props of React, and variables of the generated code.
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """arguments as async await break case catch class const continue debugger default delete do else enum eval
        export extends false finally for from function get if implements import in instanceof interface let new null of
        package private protected public return set static super switch this throw true try type typeof undefined var
        void while with yield children dangerouslySetInnerHTML key ref style
        base bodyId copies copy css event fieldId helperId looks titleId tokens useId variantKey""",
    )
)
_RESERVED_TYPES = frozenset({"CSSProperties", "Default", "Meta", "Part", "Partial", "Record", "Story", "StoryObj"})


def _words(name: str) -> list[str]:
    words, length = [], 0
    # Later text never reaches the name, so a 10 kB layer name is not split in full.
    for word in _WORDS.findall(name[: _MAX_CHARS * 4]):
        length += len(word)
        if length > _MAX_CHARS:
            break
        words.append(word.lower())
    return words


def slug(name: str, *, fallback: str) -> str:
    """Return ``lower-case-words``, or `fallback` if the name has no ASCII letter or digit."""
    return "-".join(_words(name)) or fallback


def pascal(name: str, *, fallback: str) -> str:
    """Return ``PascalCase``, prefixed with `fallback` if the name cannot start an identifier."""
    words = _words(name)
    if not words or words[0][0].isdigit():
        words.insert(0, fallback)
    return "".join(word[0].upper() + word[1:] for word in words)


def camel(name: str, *, fallback: str) -> str:
    """Return ``camelCase`` that is valid as a prop or variable."""
    name = pascal(name, fallback=fallback)
    name = name[0].lower() + name[1:]
    return f"{name}Value" if name in _RESERVED else name


def is_valid_prop_name(name: str) -> bool:
    """Return whether `name` is a valid prop: camelCase, at most 64 characters, not reserved."""
    return _IDENTIFIER.fullmatch(name) is not None and name not in _RESERVED


def component_identifier(design_name: str, *, component_type: str) -> str:
    """Return the React name of a component: ``Card/Pricing`` in Figma becomes ``PricingCard``."""
    name = pascal(" ".join(reversed(design_name[:200].split("/"))), fallback=component_type)
    return f"{name}Component" if name in _RESERVED_TYPES else name


def unique(name: str, taken: set[str]) -> str:
    """Return `name`, with a number if it is in `taken`, and add the result to `taken`."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}{number}", number + 1
    taken.add(candidate)
    return candidate
