"""Design tokens in the W3C Design Tokens Community Group format: nested groups whose leaves have a ``$value``."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from componentforge.naming import slug
from forge_otel.errors import BadRequest

__all__ = ["TokenTree", "css_variables", "leaves", "merge", "pixels", "variable"]

TokenTree = dict[str, Any]

_MAX_DEPTH = 8
_ALIAS = re.compile(r"\{([^{}]+)\}")
_COLOR = re.compile(r"#([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})", re.ASCII)
_DIMENSION = re.compile(r"-?\d+(\.\d+)?(px|rem|em|%)", re.ASCII)


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield every token with its path."""
    for name, value in tree.items():
        if name.startswith("$") or not isinstance(value, Mapping):
            continue
        if "$value" in value:
            yield (*path, name), value
        else:
            yield from leaves(value, (*path, name))


def variable(path: tuple[str, ...]) -> str:
    """Return the name of a token's CSS custom property."""
    return "--" + "-".join(slug(segment, fallback="token") for segment in path)


def css_variables(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return CSS custom property to value for every token; references between tokens become ``var(--…)``.

    Raises:
        BadRequest: a token's value does not fit its type.
    """
    variables: dict[str, str] = {}
    for path, token in leaves(tree):
        try:
            variables |= _declarations(variable(path), token)
        except (KeyError, TypeError, AttributeError) as exc:
            raise BadRequest(f"the token {'.'.join(path)!r} has a value that does not fit its $type") from exc
    return variables


def _declarations(name: str, token: Mapping[str, Any]) -> dict[str, str]:
    value = token["$value"]
    match token.get("$type"):
        case "typography":
            family = str(value["fontFamily"]).replace('"', "").replace("\\", "")
            font = f'{value["fontWeight"]} {value["fontSize"]}/{value["lineHeight"]} "{family}", sans-serif'
            tracking = _css(value["letterSpacing"])
            return {name: font} if tracking == "0px" else {name: font, f"{name}-tracking": tracking}
        case "shadow":
            layers = value if isinstance(value, list) else [value]
            parts = ("offsetX", "offsetY", "blur", "spread", "color")
            return {name: ", ".join(" ".join(_css(layer[part]) for part in parts) for layer in layers)}
        case "border":
            return {name: " ".join(_css(value[part]) for part in ("width", "style", "color"))}
        case _:
            return {name: _css(value)}


def _css(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"{value!r} is not a CSS value")
    return _ALIAS.sub(lambda match: f"var({variable(tuple(match[1].split('.')))})", str(value))


def merge(tree: TokenTree, overrides: Mapping[str, Any]) -> TokenTree:
    """Return `tree` with tokens replaced or added.

    Args:
        tree: tokens of the design.
        overrides: tokens of the caller; a bare string or number is short for a token with that value.

    Raises:
        BadRequest: an override is malformed, or replaces a group by a token or a token by a group.
    """
    return _merge(tree, overrides, path=())


def _merge(tree: Mapping[str, Any], overrides: Mapping[str, Any], *, path: tuple[str, ...]) -> TokenTree:
    if len(path) >= _MAX_DEPTH:
        raise BadRequest(f"tokens may be nested at most {_MAX_DEPTH} levels deep")
    merged = dict(tree)
    for name, given in overrides.items():
        if name.startswith("$"):
            continue
        existing = merged.get(name, {})
        here = (*path, name)
        if isinstance(given, Mapping) and "$value" not in given:
            if "$value" in existing:
                raise BadRequest(f"{'.'.join(here)!r} is a token of the design, it cannot become a group")
            merged[name] = _merge(existing, given, path=here)
        else:
            merged[name] = _override(existing, given, path=here)
    return merged


def _override(existing: Mapping[str, Any], given: Any, *, path: tuple[str, ...]) -> TokenTree:
    dotted = ".".join(path)
    token = dict(given) if isinstance(given, Mapping) else {"$value": given}
    value = token["$value"]
    if existing and "$value" not in existing:
        raise BadRequest(f"{dotted!r} is a group of the design, it cannot become a token")
    if isinstance(value, bool) or not isinstance(value, str | int | float | Mapping | list):
        raise BadRequest(f"the token {dotted!r} needs a string, a number or an object as its value")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRequest(f"the token {dotted!r} must be a finite number")
    kind = token.get("$type") or existing.get("$type") or _guess(value)
    if kind == "color" and not (isinstance(value, str) and (_COLOR.fullmatch(value) or _ALIAS.fullmatch(value))):
        raise BadRequest(f"the token {dotted!r} must be a colour such as #1d4ed8")
    if isinstance(value, Mapping) and isinstance(existing.get("$value"), Mapping):
        value = {**existing["$value"], **value}
    typed = {"$type": kind} if kind else {}
    return {**existing, **token, **typed, "$value": value, "$description": "set by the caller"}


def _guess(value: Any) -> str | None:
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str) and _COLOR.fullmatch(value):
        return "color"
    if isinstance(value, str) and _DIMENSION.fullmatch(value):
        return "dimension"
    return None


def pixels(number: float) -> str:
    """Return a length in pixels with at most two decimals: ``16px``, ``0.4px``."""
    return f"{round(number, 2):.2f}".rstrip("0").rstrip(".") + "px"
