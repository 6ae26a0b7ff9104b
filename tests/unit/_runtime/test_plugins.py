"""Adapters are found by URL scheme."""

from pathlib import Path

import pytest

from forge_otel._runtime.plugins import load
from forge_otel.errors import ConfigurationError
from forge_otel.sinks.files.sink import FileArchive
from forge_otel.stores.memory import MemoryStore


def test_a_module_is_found_by_the_scheme() -> None:
    """Modules with another name, and schemes with a driver, are found too."""
    assert isinstance(load("stores", "memory://")("memory://", max_bytes=1), MemoryStore)
    assert isinstance(load("sinks", "file://./a")("file://./a"), FileArchive)
    assert load("sinks", "sqlite+aiosqlite:///x.db").__module__ == "forge_otel.sinks.sql"


@pytest.mark.parametrize("url", ["memcached://h", "_private://h", "no url", "../../x://h"])
def test_an_unknown_scheme_is_an_error(url: str) -> None:
    """The message names the package that was searched."""
    with pytest.raises(ConfigurationError, match=r"forge_otel\.stores has no adapter"):
        load("stores", url)


def test_an_unknown_url_is_masked() -> None:
    """A string without a scheme may be a password."""
    with pytest.raises(ConfigurationError) as caught:
        load("stores", "hunter2hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_third_party_adapter_is_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs a group and its scheme, no change in this package."""
    (tmp_path / "their_store.py").write_text("def open_url(url, **options):\n    return url, options\n")
    info = tmp_path / "their_store-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-store\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[forge_otel.stores]\ntheirs = their_store:open_url\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("stores", "theirs://h")("theirs://h", max_bytes=1) == ("theirs://h", {"max_bytes": 1})
