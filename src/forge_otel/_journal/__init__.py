"""A journal on local disk that outlives a killed process: of the outbox's records, and of the spans for LangSmith."""
