"""What turns texts into vectors: one module a kind of embedder, found by the scheme of its URL."""
