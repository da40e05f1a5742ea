"""The matrix of weights: shards, other Zarr layouts, ranges on the Hub."""
