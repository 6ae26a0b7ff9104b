"""Sampling of traces: the head sampler of own providers, tail sampling, and the probability that both share.

Sampling by LangSmith's own settings is in `telemetry.langsmith`.
"""
