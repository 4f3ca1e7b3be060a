"""KV cache: writes, reads and copies; the caches of sparse attention's indexer."""
