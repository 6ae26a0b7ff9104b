"""The identity of the caller: from headers, or from the application's hook."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope
from tests.unit.web.support import InMemoryForge, plain, request, serving

from forge_otel.context import Identity, identity
from forge_otel.errors import Unauthorized
from forge_otel.names import Attr
from forge_otel.web.request.options import header_identity


async def test_identity_from_headers() -> None:
    """User and session are set for the request and on its span; unsafe values and the tenant header are ignored."""
    forge = InMemoryForge()
    seen: list[Identity] = []

    async def page(_request: Request) -> Response:
        seen.append(identity.get())
        return PlainTextResponse("hello")

    headers = [("x-user-id", "ann@example.org"), ("x-session-id", "<script>"), ("x-tenant", "acme")]
    await request(serving(page, forge), headers=headers)
    assert seen == [Identity(user_id="ann@example.org")]
    assert forge.server_span.attributes[Attr.USER_ID] == "ann@example.org"
    assert identity.get() == Identity()


async def test_identity_hook() -> None:
    """The application's hook sets the identity, and may reject the request."""
    forge = InMemoryForge()

    def only_ann(scope: Scope) -> Identity:
        if header_identity(scope) != Identity(user_id="ann"):
            raise Unauthorized("only Ann has access")
        return Identity(user_id="ann", tenant="acme")

    app = serving(plain, forge, identity=only_ann)
    assert (await request(app, headers=[("x-user-id", "ann")])).status == 200
    assert (await request(app, headers=[("x-user-id", "bob")])).status == 401
    assert [span.attributes.get(Attr.TENANT) for span in forge.spans] == ["acme", None]
