"""Change a dataset: write, pack, add, remove, relabel."""
