"""Test tools for users of the library: contract suites, faults on the wire, the fault matrix, stand-ins and fixtures.

Nothing here is imported by the library itself.
"""
