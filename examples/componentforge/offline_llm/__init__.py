"""The offline model: an OpenAI-compatible server that answers by rules, not with a language model.

It reads the context block of a prompt (`componentforge.schemas`) and labels every answer as its own.
"""
