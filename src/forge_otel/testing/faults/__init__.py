"""Fault injection on the wire: a TCP proxy, the faults that it injects, and canned HTTP responses.

The measurement of a service under such a fault is in `testing.fault_matrix`.
"""
