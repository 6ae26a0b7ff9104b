"""Where cache entries live: one module a kind of store, found by the scheme of its URL."""
