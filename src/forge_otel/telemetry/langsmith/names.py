"""LangSmith's own names: span attributes, headers and environment variables that no other module uses.

Source: the mapping table of LangSmith's documentation, "Trace with OpenTelemetry", and the source of langsmith 0.15.
"""

from typing import Final

__all__ = ["LangSmithAttr", "LangSmithEnv"]


class LangSmithAttr:
    """Span attributes and headers that LangSmith maps to the fields of a run."""

    RUN_TYPE: Final = "langsmith.span.kind"
    TAGS: Final = "langsmith.span.tags"
    METADATA: Final = "langsmith.metadata."
    USAGE: Final = "langsmith.usage_metadata"
    ATTACHMENTS: Final = "langsmith.attachments"
    PROMPT: Final = "gen_ai.prompt"
    COMPLETION: Final = "gen_ai.completion"
    # Keys below METADATA.
    SESSION_ID: Final = "session_id"
    THREAD_ID: Final = "thread_id"
    USER_ID: Final = "user_id"
    REMOTE_PARENT: Final = "remote_parent_span_id"
    # Headers
    API_KEY_HEADER: Final = "x-api-key"
    PROJECT_HEADER: Final = "Langsmith-Project"


class LangSmithEnv:
    """Environment variables, each current name before its former one."""

    API_KEY: Final = ("LANGSMITH_API_KEY", "LANGCHAIN_API_KEY")
    PROJECT: Final = ("LANGSMITH_PROJECT", "LANGCHAIN_PROJECT")
    ENDPOINT: Final = ("LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT")
    TRACING: Final = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2")
    HIDE_INPUTS: Final = ("LANGSMITH_HIDE_INPUTS", "LANGCHAIN_HIDE_INPUTS")
    HIDE_OUTPUTS: Final = ("LANGSMITH_HIDE_OUTPUTS", "LANGCHAIN_HIDE_OUTPUTS")
    HIDE_METADATA: Final = ("LANGSMITH_HIDE_METADATA", "LANGCHAIN_HIDE_METADATA")
    SAMPLING_RATE: Final = ("LANGSMITH_TRACING_SAMPLING_RATE", "LANGCHAIN_TRACING_SAMPLING_RATE")
