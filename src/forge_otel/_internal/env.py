"""Environment variables as values: how each type of setting is read, and how a URL is shown."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Literal, get_args, get_origin

__all__ = ["choices", "is_optional", "mask_url", "misspelt", "parse"]


def mask_url(url: str | None) -> str | None:
    """Return `url` without the password and query that it may carry."""
    if url is None:
        return None
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    place, _, query = rest.partition("?")
    # Up to the last one, because some drivers take a password with a slash or an @ in it.
    _, at, shown = place.rpartition("@")
    return f"{scheme}://{'***@' if at else ''}{shown}{'?***' if query else ''}"


def misspelt(name: str, known: Iterable[str]) -> str:
    """Return an error message that suggests the setting a variable resembles, or an empty string."""
    # Not every variable with our prefix is ours, so one that resembles no setting is ignored.
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"{name} is not a setting; did you mean {nearest[0]}?" if nearest else ""


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the words that a setting of a Literal type, or of an optional one, may have; none for other types."""
    return next((get_args(part) for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal), ())


def is_optional(annotation: Any) -> bool:
    """Return whether a setting of that type may be None."""
    return type(None) in get_args(annotation)


def parse(annotation: Any, text: str, parsers: Mapping[Any, Callable[[str], Any]] = MappingProxyType({})) -> Any:
    """Return the value of a setting of that type.

    Args:
        annotation: the type of the setting.
        text: the value of the environment variable.
        parsers: one function for each type that is not built in.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, decimal.InvalidOperation: it cannot be read.
    """
    if choices(annotation):
        return None if is_optional(annotation) and not text else text
    parser = parsers.get(annotation) or _PARSERS[annotation]
    return parser(text)


def _boolean(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError("say 1 or 0")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> Mapping[str, float]:
    """Read `button=0.95, card=0.9`."""
    pairs = (entry.partition("=") for entry in _names(text))
    return MappingProxyType({name.strip(): float(value) for name, _, value in pairs})


def _optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text) if text else None


_PARSERS: Final[Mapping[Any, Callable[[str], Any]]] = MappingProxyType(
    {
        bool: _boolean,
        float: float,
        float | None: _optional(float),
        int: int,
        int | None: _optional(int),
        str: str,
        str | None: _optional(str),
        Decimal: Decimal,
        Decimal | None: _optional(Decimal),
        tuple[str, ...]: _names,
        Mapping[str, float]: _numbers,
    }
)
