"""Readers of the weight matrix: our shards, other Zarr layouts, and byte ranges on the Hub."""
