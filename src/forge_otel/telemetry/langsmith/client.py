"""The two things that the real `langsmith` client is used for: where runs are shown, and scores on them.

Blocking: called in threads. One attempt a call; whoever calls knows when to try again.
"""

from datetime import datetime
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

from forge_otel.errors import needs
from forge_otel.telemetry.langsmith.settings import LangSmithOptions

with needs("langsmith"):
    from langsmith import Client
    from langsmith.utils import LangSmithNotFoundError

__all__ = ["LangSmithClient", "LangSmithProject"]

_TIMEOUT_MS: Final = (3_000, 5_000)


class LangSmithProject:
    """A tracing project as LangSmith knows it.

    Args:
        id: of the project.
        url: where people see it.
    """

    def __init__(self, id: UUID, url: str) -> None:  # noqa: A002 - LangSmith's own word
        self.id = id
        self.url = url


class LangSmithClient:
    """LangSmith's API.

    Args:
        options: where it is and what opens it.
    """

    def __init__(self, options: LangSmithOptions) -> None:
        self._project = options.project
        self._client = Client(
            api_url=options.endpoint,
            api_key=options.api_key,
            timeout_ms=_TIMEOUT_MS,
            # No threads and no queue of its own; which runs are sent is decided by us.
            auto_batch_tracing=False,
            tracing_sampling_rate=1.0,
            # Where it has to ask and is refused, it writes parts of the key to the log.
            info={"batch_ingest_config": {"use_multipart_endpoint": False}},
        )

    def find_project(self) -> LangSmithProject | None:
        """Return the project that runs go to; None before its first run has come."""
        try:
            found = self._client.read_project(project_name=self._project)
        except LangSmithNotFoundError:
            return None
        return LangSmithProject(found.id, found.url or "")

    def score(
        self, project: LangSmithProject, run_id: UUID, *, key: str, score: float, about: str, started_at: datetime
    ) -> None:
        """Put a score on a run; the same again changes nothing.

        Args:
            about: tells this score from others of that key.
            started_at: when the run began.
        """
        self._client.create_feedback(
            run_id,
            key,
            score=score,
            feedback_id=uuid5(NAMESPACE_URL, f"forge-otel:{about}:{key}"),
            session_id=project.id,
            start_time=started_at,
            stop_after_attempt=1,
        )
