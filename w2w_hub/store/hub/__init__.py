"""Repositories on the Hub: revisions, the cache, byte ranges, pins."""
