"""Fault matrix: load on a service, faults of its dependencies, and a check of what callers and operators observe.

The faults themselves are injected by `testing.faults`, or by any other asynchronous context manager.
"""
