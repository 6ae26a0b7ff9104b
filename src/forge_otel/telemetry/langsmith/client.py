"""The two uses of the `langsmith` client: looking up the project's URL, and scores on runs.

The calls block and are made in threads. An error is raised, and the caller tries again later.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

from forge_otel.errors import needs
from forge_otel.telemetry.langsmith.settings import LangSmithOptions

with needs("langsmith"):
    from langsmith import Client
    from langsmith.utils import LangSmithNotFoundError

__all__ = ["LangSmithClient", "LangSmithProject"]

# For connecting and for reading.
_TIMEOUT_MS: Final = (3_000, 5_000)


@dataclass(frozen=True, slots=True)
class LangSmithProject:
    """A tracing project.

    Args:
        id: id of the project.
        url: address of its page.
    """

    id: UUID
    url: str


class LangSmithClient:
    """Client of LangSmith's API.

    Args:
        options: endpoint, key and project.
    """

    def __init__(self, options: LangSmithOptions) -> None:
        self._project = options.project
        self._client = Client(
            api_url=options.endpoint,
            api_key=options.api_key,
            timeout_ms=_TIMEOUT_MS,
            # No threads and no queue of its own; the export decides which runs are sent.
            auto_batch_tracing=False,
            tracing_sampling_rate=1.0,
            # Without this it requests the server's info and, if that is refused, logs parts of the key.
            info={"batch_ingest_config": {"use_multipart_endpoint": False}},
        )

    def find_project(self) -> LangSmithProject | None:
        """Return the project of the runs; None before its first run has arrived."""
        try:
            found = self._client.read_project(project_name=self._project)
        except LangSmithNotFoundError:
            return None
        return LangSmithProject(found.id, found.url or "")

    def score(
        self, project: LangSmithProject, run_id: UUID, *, key: str, score: float, score_id: str, started_at: datetime
    ) -> None:
        """Put a score on a run; a repeated call has no effect.

        Args:
            key: name of the score.
            score_id: distinguishes this score from others of the same key.
            started_at: start of the run.
        """
        self._client.create_feedback(
            run_id,
            key,
            score=score,
            feedback_id=uuid5(NAMESPACE_URL, f"forge-otel:{score_id}:{key}"),
            session_id=project.id,
            start_time=started_at,
            stop_after_attempt=1,
        )
