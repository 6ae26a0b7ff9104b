"""The service's own settings, names and servers."""

import pytest
from starlette.types import Receive, Scope, Send

from componentforge.naming import camel, component_identifier, is_valid_prop_name, slug, unique
from componentforge.serving import serve
from componentforge.settings import ServiceSettings

LOCAL = {"offline_url": "http://127.0.0.1:1/v1", "figma_url": "http://127.0.0.1:2"}


def test_without_keys_the_stand_ins_are_used() -> None:
    """Nothing set: everything stays on this machine, and says so."""
    settings = ServiceSettings.from_env({}, **LOCAL)
    assert (settings.openai_url, settings.figma_url) == (LOCAL["offline_url"], LOCAL["figma_url"])
    assert settings.is_offline


def test_with_keys_the_real_services_are_used() -> None:
    """A key switches to the real service, and appears nowhere."""
    settings = ServiceSettings.from_env(
        {"OPENAI_API_KEY": "sk-1", "FIGMA_TOKEN": "figd", "FIGMA_FILES": "a, b"}, **LOCAL
    )
    assert (settings.openai_url, settings.figma_url) == ("https://api.openai.com/v1", "https://api.figma.com")
    assert settings.figma_files == ("a", "b")
    assert not settings.is_offline
    assert "sk-1" not in repr(settings)
    assert "figd" not in repr(settings)


@pytest.mark.parametrize(
    ("design", "name"),
    [
        ("Card/Pricing", "PricingCard"),
        ("Input/Text field", "TextFieldInput"),
        ("Button", "Button"),
        ("🔥", "Button"),
        ("3D/Button", "Button3D"),
        ("24h", "Button24H"),
        ("part", "PartComponent"),
    ],
)
def test_a_component_gets_a_name_that_code_can_use(design: str, name: str) -> None:
    """Designers' names become PascalCase, and never one that the generated code uses itself."""
    assert component_identifier(design, component_type="button") == name


@pytest.mark.parametrize(("text", "name"), [("Show icon", "showIcon"), ("class", "classValue"), ("é", "text")])
def test_props_are_free_identifiers(text: str, name: str) -> None:
    """Reserved words are kept out of the way."""
    assert camel(text, fallback="text") == name
    assert is_valid_prop_name(name)


def test_long_names_are_cut_and_taken_names_are_numbered() -> None:
    """A name is at most 40 characters before its number."""
    taken: set[str] = set()
    assert len(slug("word " * 1000, fallback="x").replace("-", "")) <= 40
    assert [unique("label", taken) for _ in range(3)] == ["label", "label2", "label3"]


async def test_a_server_that_cannot_start_says_so() -> None:
    """A failing startup is an error here, not the end of the process."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="did not start"):
        async with serve(app):
            pytest.fail("it must not start")


async def test_a_taken_port_is_an_error() -> None:
    """Two servers cannot share a port."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async with serve(app) as url:
        with pytest.raises(OSError, match="in use"):
            async with serve(app, port=int(url.rpartition(":")[2])):
                pytest.fail("it must not start")
