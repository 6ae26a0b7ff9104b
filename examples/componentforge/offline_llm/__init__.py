"""The offline model: an OpenAI-compatible server that answers from the prompt itself, so that nothing has to be paid.

It is no language model. It reads the context block of a prompt (`componentforge.schemas`) and writes by rules; it says
so in every answer.
"""
