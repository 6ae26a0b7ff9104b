"""Settings of the service, read from environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from componentforge.designs import FILES

__all__ = ["OFFLINE_MODEL", "ServiceSettings"]

OFFLINE_MODEL = "forge-offline-1"
"""Model name of the offline stand-in; the name shows that no language model wrote the answer."""

_DEFAULT_MODEL = "gpt-4.1-mini"
_OFFLINE_KEY = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Addresses, keys and models of the services that ComponentForge calls.

    Args:
        figma_url: base address of the Figma REST API.
        figma_token: personal access token.
        figma_passcode: passcode that Figma sends with its webhooks; None switches the webhook route off.
        figma_files: keys of the files that ``GET /components`` lists.
        openai_url: base address of an OpenAI-compatible API, including ``/v1``.
        openai_key: API key.
        openai_model: the model that writes requirements and code.
        openai_fallback_model: the model that is called when the first one is unavailable.
        timeout_s: time limit of one call to the model, in seconds.
    """

    figma_url: str
    openai_url: str
    figma_token: str = field(repr=False)
    openai_key: str = field(repr=False)
    figma_passcode: str | None = field(default=None, repr=False)
    openai_model: str = OFFLINE_MODEL
    openai_fallback_model: str | None = None
    figma_files: tuple[str, ...] = tuple(FILES)
    timeout_s: float = 120.0

    @property
    def is_offline(self) -> bool:
        """Return whether the offline stand-in replaces a real model."""
        return self.openai_model == OFFLINE_MODEL

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, offline_url: str, figma_url: str) -> "ServiceSettings":
        """Read the settings; a service without its key is replaced by a stand-in.

        Args:
            environ: ``OPENAI_API_KEY``, ``OPENAI_BASE_URL``, ``OPENAI_MODEL`` and ``OPENAI_FALLBACK_MODEL``;
                ``FIGMA_TOKEN``, ``FIGMA_API_URL``, ``FIGMA_WEBHOOK_PASSCODE`` and
                ``FIGMA_FILES`` (keys separated by commas).
            offline_url: base address of the offline model, used without an OpenAI key.
            figma_url: base address of the stand-in Figma, used without a Figma token.
        """
        files = tuple(key.strip() for key in environ.get("FIGMA_FILES", "").split(",") if key.strip())
        openai_key = environ.get("OPENAI_API_KEY", "")
        figma_token = environ.get("FIGMA_TOKEN", "")
        return cls(
            openai_url=environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") if openai_key else offline_url,
            openai_key=openai_key or _OFFLINE_KEY,
            openai_model=environ.get("OPENAI_MODEL", _DEFAULT_MODEL) if openai_key else OFFLINE_MODEL,
            openai_fallback_model=environ.get("OPENAI_FALLBACK_MODEL") or None,
            figma_url=environ.get("FIGMA_API_URL", "https://api.figma.com") if figma_token else figma_url,
            figma_token=figma_token or "stand-in",
            figma_passcode=environ.get("FIGMA_WEBHOOK_PASSCODE") or None,
            figma_files=files or tuple(FILES),
        )
