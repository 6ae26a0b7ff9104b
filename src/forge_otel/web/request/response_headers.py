"""What the headers of a response say about the answer that it is made of."""

from collections.abc import Iterable

from forge_otel.context import RequestInfo

__all__ = ["headers_of"]


def headers_of(
    info: RequestInfo, status: int | None, present: Iterable[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Return `ETag` and `Age` of a response made of one generation, where the application has not set them."""
    if len(info.etags_and_ages) != 1 or status is None or not 200 <= status < 300:
        return []
    ((etag, age_s),) = info.etags_and_ages
    found = [(b"etag", etag.encode("ascii"))] if etag else []
    if age_s:
        found.append((b"age", str(age_s).encode("ascii")))
    names = {name.lower() for name, _ in present}
    return [(name, value) for name, value in found if name not in names]
