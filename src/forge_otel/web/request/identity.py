"""On whose behalf a request is made."""

import re
from collections.abc import Callable
from typing import Final

from starlette.types import Scope

from forge_otel.context import Identity

__all__ = ["IdentityHook", "header_identity"]

IdentityHook = Callable[[Scope], Identity | None]
"""Tells from the ASGI scope who asks; None where nobody is known."""

_HEADERS: Final = {b"x-user-id": "user_id", b"x-session-id": "session_id"}
# What may stand in a span attribute, a log line and a database column without being quoted.
_SAFE: Final = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")


def header_identity(scope: Scope) -> Identity | None:
    """Read `x-user-id` and `x-session-id`, which are claims of the caller and serve for finding traces only.

    Other characters than `A-Za-z0-9._:@/+=-` and more than 128 of them make a header count as absent. There is no
    header for the tenant: it separates cache entries, and only the application knows who may say it.
    """
    found = {
        _HEADERS[name]: value.decode("ascii")
        for name, value in scope["headers"]
        if name in _HEADERS and _SAFE.fullmatch(value)
    }
    return Identity(**found) if found else None
