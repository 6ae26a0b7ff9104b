"""Policies for calls to outside services: deadline, retry, circuit breaker, bulkhead, attempt timeout and fallback.

Not in here: limits of a whole generation, which are layers, and the clients of the services.
"""
