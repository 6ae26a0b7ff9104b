"""Settings from environment variables."""

from componentforge.settings import ServiceSettings

LOCAL = {"offline_url": "http://127.0.0.1:1/v1", "figma_url": "http://127.0.0.1:2"}


def test_without_keys_the_stand_ins_are_used() -> None:
    """Without variables the service uses the local stand-ins."""
    settings = ServiceSettings.from_env({}, **LOCAL)
    assert (settings.openai_url, settings.figma_url) == (LOCAL["offline_url"], LOCAL["figma_url"])
    assert settings.is_offline


def test_with_keys_the_real_services_are_used() -> None:
    """A key switches to the real service, and does not appear in the repr."""
    settings = ServiceSettings.from_env(
        {"OPENAI_API_KEY": "sk-1", "FIGMA_TOKEN": "figd", "FIGMA_FILES": "a, b"}, **LOCAL
    )
    assert (settings.openai_url, settings.figma_url) == ("https://api.openai.com/v1", "https://api.figma.com")
    assert settings.figma_files == ("a", "b")
    assert not settings.is_offline
    assert "sk-1" not in repr(settings)
    assert "figd" not in repr(settings)
