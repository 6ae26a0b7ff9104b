"""Contract suites: test classes for implementations of the store, archive and lease protocols.

Subclass a suite and provide its fixture; the suites do not create stores, archives or leases themselves.
"""
